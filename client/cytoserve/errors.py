"""All errors that cytoserve raises, as one tree.

::

    CytoserveError
    ├── InvalidRequest (ValueError)     an argument is invalid; nothing was sent
    │   ├── UnsupportedImage            an array that is not a frame
    │   ├── FrameTooLarge               a frame that exceeds the limits of the contract
    │   ├── InvalidSetting              a threshold, cap, scale, deadline, pipeline or address
    │   ├── InvalidPrompts              missing or contradictory boxes, points or masks
    │   └── UnreadableImage             a file without a frame
    ├── ServerUnreachable               no server answers; the only error that is retried
    ├── DeadlineExceeded (TimeoutError) no answer in time
    └── ServerError                     the server refused the request or failed
        ├── PipelineNotServed           the server does not serve this pipeline
        ├── VersionNotServed            the server does not offer this version of the pipeline
        ├── AccessDenied                the server does not admit this caller
        ├── ServerNotTrusted            client or server refuses the other's certificate
        └── AnswerMalformed             the answer breaks the contract

Every message states the rule, what was given, and the remedy.
"""

from __future__ import annotations


class CytoserveError(Exception):
    """The base class of all cytoserve errors: catch it to catch them all."""


class InvalidRequest(CytoserveError, ValueError):
    """An argument is invalid. Nothing was sent to the server."""


class UnsupportedImage(InvalidRequest):
    """The array is not a frame: its shape, dtype or values are not accepted."""


class FrameTooLarge(InvalidRequest):
    """The frame, before or after scaling, is too large to be segmented."""


class InvalidSetting(InvalidRequest):
    """A threshold, cap, scale, deadline, pipeline name or server address is invalid."""


class InvalidPrompts(InvalidRequest):
    """Boxes, points or coarse masks are missing, contradictory, or outside the frame."""


class UnreadableImage(InvalidRequest):
    """The file is missing, empty, truncated, or does not hold exactly one frame."""


class ServerUnreachable(CytoserveError):
    """No server answers at the address, or the connection was lost before the answer."""


class DeadlineExceeded(CytoserveError, TimeoutError):
    """The answer did not arrive within the deadline of the call."""


class ServerError(CytoserveError):
    """The server answered with an error; the message contains its text."""


class PipelineNotServed(ServerError):
    """The server does not serve this pipeline, or not yet.

    ``pipeline`` is the requested name, ``served`` the names that the server does serve.
    """

    def __init__(self, pipeline: str, served: tuple[str, ...] = ()) -> None:
        self.pipeline = pipeline
        self.served = served
        super().__init__(
            f"The server does not serve {pipeline!r}. It serves: {', '.join(served) or 'none'}. "
            f"Export it where the server runs with `python -m export {pipeline}` and start the "
            "server again, or choose a pipeline that is served."
        )

    def __reduce__(self) -> tuple[type[PipelineNotServed], tuple[str, tuple[str, ...]]]:
        return type(self), (self.pipeline, self.served)


class VersionNotServed(ServerError):
    """The server does not offer this version of the pipeline.

    ``pipeline`` is the requested name, ``version`` the number.
    """

    def __init__(self, pipeline: str, version: int) -> None:
        self.pipeline = pipeline
        self.version = version
        super().__init__(
            f"The server does not offer version {version} of {pipeline!r}. Without `python -m "
            "server --versions 2` it offers none by number. Leave the version out for the newest; "
            "`cytoserve status` tells which that is."
        )

    def __reduce__(self) -> tuple[type[VersionNotServed], tuple[str, int]]:
        return type(self), (self.pipeline, self.version)


class AccessDenied(ServerError):
    """The server restricts this call, and the caller did not send the required credentials."""


class ServerNotTrusted(ServerError):
    """Client and server did not agree on a certificate, so nothing was sent."""


class AnswerMalformed(ServerError):
    """The answer breaks the contract: a tensor is missing, or has a wrong dtype or shape."""
