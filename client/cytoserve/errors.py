"""Everything that cytoserve raises, as one tree.

::

    CytoserveError
    ├── InvalidRequest (ValueError)     the caller's argument; nothing was sent
    │   ├── UnsupportedImage            an array that is no frame
    │   ├── FrameTooLarge               a frame beyond the limits of the contract
    │   ├── InvalidSetting              a threshold, cap, scale, deadline, pipeline or address
    │   ├── InvalidPrompts              boxes, points or coarse masks that say nothing clear
    │   └── UnreadableImage             a file that holds no frame
    ├── ServerUnreachable               nobody answers; the only error that is tried again
    ├── DeadlineExceeded (TimeoutError) no answer in time
    └── ServerError                     the server answered, and refused or failed
        ├── PipelineNotServed           it does not serve this pipeline
        ├── AccessDenied                it does not let this caller in
        └── AnswerMalformed             its answer breaks the contract

Every message says the rule, what was given and the remedy.
"""

from __future__ import annotations


class CytoserveError(Exception):
    """The root: catch this to catch everything that cytoserve raises."""


class InvalidRequest(CytoserveError, ValueError):
    """The caller's argument is at fault. Nothing was sent to the server."""


class UnsupportedImage(InvalidRequest):
    """The array is no frame: its shape, dtype or values are outside what is accepted."""


class FrameTooLarge(InvalidRequest):
    """The frame, or what it is scaled to, is larger than what can be segmented."""


class InvalidSetting(InvalidRequest):
    """A threshold, cap, scale, deadline, pipeline name or server address is out of its range."""


class InvalidPrompts(InvalidRequest):
    """Boxes, points or coarse masks: missing, contradictory, or outside the frame."""


class UnreadableImage(InvalidRequest):
    """The file is missing, empty, truncated, or in a format that holds no single frame."""


class ServerUnreachable(CytoserveError):
    """Nobody answers at the address, or the server went away before it answered."""


class DeadlineExceeded(CytoserveError, TimeoutError):
    """The answer did not come within the deadline of the call."""


class ServerError(CytoserveError):
    """The server answered with an error; the message carries its text."""


class PipelineNotServed(ServerError):
    """The server does not serve this pipeline, or not yet.

    ``pipeline`` is the name that was asked for, ``served`` those that the server does serve.
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


class AccessDenied(ServerError):
    """The server restricts this call, and the caller did not send what it asks for."""


class AnswerMalformed(ServerError):
    """The answer breaks the contract: a tensor is missing, or has a wrong dtype or shape."""
