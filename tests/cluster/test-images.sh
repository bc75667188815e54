#!/bin/sh
# Builds the images for the tests on a cluster with buildah, and loads them into the cluster's nodes:
#   tests/cluster/test-images.sh BASE LOADER...     such as: test-images.sh python:3.11-slim kind load image-archive
# BASE is an image with the Python version of .venv, and LOADER is a command that takes an archive of an image.
# localhost/trainer-test:dev is BASE, and finds its packages in the workspace. localhost/operator-test:dev is BASE with
# the wheel and its dependencies, like the Dockerfile's operator image, but built in seconds.
set -eu
base=$1 && shift
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

container=$(buildah from "$base")
buildah config --env PYTHONPATH=/workspace/.packages "$container"
buildah commit -q --rm "$container" localhost/trainer-test:dev

packages=$folder/packages
"$root/.venv/bin/pip" install --quiet --no-compile --target "$packages" --constraint "$root/constraints.txt" "$root"
rm -r "$packages/kubernetes/client/api" "$packages/kubernetes/aio/client/api"
"$root/.venv/bin/python" -m compileall -q -x '/kubernetes/(aio/)?client/models/' "$packages"
sed -i '1s|.*|#!/usr/bin/env python3|' "$packages/bin/finetune"
container=$(buildah from "$base")
buildah copy -q "$container" "$packages" /packages
buildah config --env PYTHONPATH=/packages --env PATH=/packages/bin:/usr/local/bin:/usr/bin:/bin "$container"
buildah commit -q --rm "$container" localhost/operator-test:dev

for image in localhost/trainer-test:dev localhost/operator-test:dev; do
  buildah push -q "$image" "docker-archive:$folder/image.tar:$image"
  "$@" "$folder/image.tar"
  rm "$folder/image.tar"
done
