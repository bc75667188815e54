# The images of finetune-operator: `docker build .` makes the operator's, `--target trainer` the trainer's. See docs/images.md.
#
# pip is mounted where it is needed and part of no result. Our own code is the last layer but the check.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt \
    && groupadd --gid 65532 finetune \
    && useradd --uid 65532 --gid 65532 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin finetune
ENV PATH=/opt/finetune/bin:$PATH

# A file per list of pyproject.toml, so that a change of anything else in there installs nothing anew.
FROM python AS requirements
WORKDIR /requirements
COPY pyproject.toml .
RUN python3 -c 'import pathlib, tomllib; \
        file = tomllib.loads(pathlib.Path("pyproject.toml").read_text()); \
        lists = {"build": file["build-system"]["requires"], "operator": file["project"]["dependencies"]}; \
        lists |= {"trainer": file["project"]["optional-dependencies"]["trainer"]}; \
        [pathlib.Path(f"{name}.txt").write_text("\n".join(lines) + "\n") for name, lines in lists.items()]'

FROM python AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
COPY --from=requirements /requirements/build.txt /build/
RUN python3 -m venv /build/venv \
    && /build/venv/bin/pip install --no-cache-dir --upgrade pip --requirement /build/build.txt \
    && python3 -m venv --without-pip /opt/finetune

FROM build AS package
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY trainer trainer
RUN /build/venv/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /build/venv/bin/pip --python /opt/finetune/bin/python3 install --no-cache-dir --no-deps --no-index --root /package /wheel/*.whl

FROM python AS environment
COPY --from=build /opt/finetune /opt/finetune
COPY constraints.txt /opt/finetune/

FROM environment AS trainer
COPY --from=requirements /requirements/operator.txt /requirements/trainer.txt /opt/finetune/
# Where torch alone comes from, if not from the index of the rest: https://download.pytorch.org/whl/cpu has small builds.
ARG TORCH_INDEX_URL=
RUN --mount=type=bind,from=build,source=/build/venv,target=/mnt \
    cd /opt/finetune \
    && install="/mnt/bin/python3 -m pip --python bin/python3 install --no-cache-dir --constraint constraints.txt" \
    && if [ -n "$TORCH_INDEX_URL" ]; then $install --no-deps --index-url "$TORCH_INDEX_URL" torch; fi \
    && $install --requirement operator.txt --requirement trainer.txt
COPY --from=package /package/ /
USER 65532:65532
RUN --mount=type=tmpfs,target=/tmp finetune --help \
    && python3 -c 'import finetune_trainer, importlib, pkgutil; \
        modules = pkgutil.walk_packages(finetune_trainer.__path__, "finetune_trainer."); \
        print(*(importlib.import_module(module.name).__name__ for module in modules))'
CMD ["python3", "-m", "finetune_trainer.agent"]
ARG VERSION=development
ARG REVISION=unknown
LABEL org.opencontainers.image.title="finetune-trainer" \
    org.opencontainers.image.description="The pods of a FineTuneJob: agent, DeepSpeed, transformers" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM environment AS operator
COPY --from=requirements /requirements/operator.txt /opt/finetune/
# Of the client for Kubernetes the operator uses configuration, credentials and transport (kube/transport.py): out go its
# generated interfaces (55 MB), and the byte-code of its models, which are loaded one by one when asked for.
RUN --mount=type=bind,from=build,source=/build/venv,target=/mnt \
    cd /opt/finetune \
    && /mnt/bin/python3 -m pip --python bin/python3 install --no-cache-dir --no-compile --constraint constraints.txt --requirement operator.txt \
    && rm -r lib/python3*/site-packages/kubernetes/client/api lib/python3*/site-packages/kubernetes/aio/client/api \
    && bin/python3 -m compileall -q -x '/kubernetes/(aio/)?client/models/' lib
COPY --from=package /package/ /
USER 65532:65532
RUN --mount=type=tmpfs,target=/tmp finetune --help \
    && python3 -c 'import finetune_operator, importlib, pkgutil; \
        modules = pkgutil.walk_packages(finetune_operator.__path__, "finetune_operator."); \
        print(*(importlib.import_module(module.name).__name__ for module in modules))'
ENTRYPOINT ["finetune"]
CMD ["operator"]
ARG VERSION=development
ARG REVISION=unknown
LABEL org.opencontainers.image.title="finetune-operator" \
    org.opencontainers.image.description="A Kubernetes operator for distributed fine-tuning with DeepSpeed" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
