"""Converts responses of the API server to the errors of `protocol.py`, and errors to messages."""

from __future__ import annotations

import json

from finetune_operator.protocol import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)

LONGEST_TEXT = 500
"""The maximum number of characters quoted from a response that is not the API server's, such as a proxy's page."""


class ConfigurationError(Exception):
    """There is no usable kubeconfig or service account; the message names the one that was tried."""


def error_of(status: int, body: bytes) -> ApiError:
    """Return the error for a response with this HTTP status."""
    try:
        answer = json.loads(body)
        reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", body.decode(errors="replace")[:LONGEST_TEXT]
    return _class_of(status, reason)(status, reason, message or f"the API server answered {status}")


def _class_of(status: int, reason: str) -> type[ApiError]:
    if status == 409:
        return AlreadyExistsError if reason == "AlreadyExists" else ConflictError
    classes = {400: InvalidError, 403: ForbiddenError, 404: NotFoundError, 422: InvalidError}
    return classes.get(status, ApiError)


def unreachable(error: Exception) -> ApiError:
    """Return the error for a request without a response."""
    return ApiError(0, "Unreachable", f"the API server was not reached: {str(error) or type(error).__name__}")


def not_kubernetes(host: str) -> ApiError:
    """Return the error for a successful response that is not from an API server."""
    return ApiError(0, "NotKubernetes", f"what answers at {host} is no API server; correct `server` in the kubeconfig")


def sentence_of(error: ApiError) -> str:
    """Return a message with the fault and, if it is known, the remedy."""
    # The API server quotes the name of an unknown object. Without quotes, it is the path of the kind that is unknown.
    if isinstance(error, NotFoundError) and '"' not in error.message:
        return "the cluster does not know FineTuneJobs; run: finetune crd | kubectl apply --server-side -f -"
    if error.status == 0 or isinstance(error, NotFoundError | ForbiddenError | InvalidError):
        return error.message
    return f"the API server says {error.status} {error.reason}: {error.message}"
