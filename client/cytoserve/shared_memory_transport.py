"""A transport to a server on the same Linux machine: frames go through shared memory.

::

    from cytoserve import Client
    from cytoserve.shared_memory_transport import SharedMemoryTransport

    with Client(transport=SharedMemoryTransport("localhost:8001")) as client:
        cells = client.segment(frame)

A frame is copied once, into memory that the server reads, too. It is not written into a message,
sent, and read again. Answers and small inputs still travel in messages.

Every running call uses its own region of memory, which is registered with the server once and
reused by later calls. The regions are released by ``close``, or when the process ends. A killed
process leaves nothing in ``/dev/shm`` either, but the server holds the frame's memory until the
server is restarted.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cytoserve.access import Access, Address, admin_headers, admin_key_file
from cytoserve.errors import AccessDenied, InvalidSetting, ServerError
from cytoserve.grpc_transport import (
    GrpcTransport,
    mapped_errors,
    read_outputs,
    status_of,
)
from cytoserve.settings import DEFAULT_URL
from cytoserve.transport import Request, Tensors

MIN_SHARED_BYTES = 64 * 1024
"""Minimum number of bytes of a tensor that goes through shared memory."""

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux shows shared memory as files

REGION_STEP_BYTES = 1024 * 1024
"""Unit of a region's size in bytes, so that frames of nearly the same size share a region."""

ALIGNMENT_BYTES = 64
"""Tensors in a region begin at multiples of this number of bytes."""

FORGET_TIMEOUT_S = 2.0
"""Time in seconds that ``close`` gives the server and the calls of other threads to release the
regions."""

# Triton's messages; its statuses alone are ambiguous.
_CANNOT_OPEN = "Unable to open shared memory region"
_NOT_REGISTERED = "Unable to find shared memory region"
_IN_USE = "currently in use"
_RESTRICTED = "restricted"


class SharedMemoryTransport(GrpcTransport):
    """A transport for a ``Client`` on the server's machine; threads may share one.

    Args:
        url: ``host:port`` of the server's gRPC endpoint, or ``grpcs://host:port`` for TLS.
        access: certificates and key, for a server that asks for them.
        headers: sent with every call besides.

    Raises:
        InvalidSetting: this is not Linux, or ``url`` is not an address. Calls raise it if the
            memory left for ``/dev/shm`` is too small for the frame, or none can be created there.
        ServerError: raised by calls if the server does not see this machine's memory.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        access: Access | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise InvalidSetting(
                "Frames go through shared memory on Linux only; given: a client on "
                f"{sys.platform}. Use Client(url), which sends them in messages."
            )
        super().__init__(url, access, headers)
        # Not a method of this object, which the regions would keep alive.
        self._memory_headers = partial(_headers, dict(self._headers), self._endpoint.address)
        self._regions = _Regions(self._server, self._memory_headers)
        self._end = weakref.finalize(self, self._regions.close)  # also when the process ends

    async def infer(self, request: Request, timeout: float) -> Tensors:  # noqa: D102
        offsets, size = layout(request.inputs)
        if not offsets:
            return await super().infer(request, timeout)
        deadline = time.monotonic() + timeout
        with (
            mapped_errors(self._url, request.model, timeout, request.id),
            self._regions.borrow(size) as region,
        ):
            for name, offset in offsets.items():
                region.write(request.inputs[name], offset)
            try:
                answer = self._ask(request, region, offsets, deadline)
            except InferenceServerException as error:
                if not _says(error, _NOT_REGISTERED):
                    raise
                region.registered = False  # the server was restarted, or told to unregister it
                answer = self._ask_again(request, region, offsets, deadline)
        return read_outputs(answer, request)

    def _ask(
        self, request: Request, region: _Region, offsets: Mapping[str, int], deadline: float
    ) -> triton.InferResult:
        """Send a request whose large inputs are in a region; register the region if necessary."""

        def make_input(name: str, tensor: NDArray[Any]) -> triton.InferInput:
            data = triton.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
            if name not in offsets:
                return data.set_data_from_numpy(tensor)
            return data.set_shared_memory(region.name, tensor.nbytes, offsets[name])

        if not region.registered:
            self._register(region, _left(deadline))
        return self._server.infer(
            request.model,
            [make_input(name, tensor) for name, tensor in request.inputs.items()],
            outputs=[triton.InferRequestedOutput(name) for name in request.outputs],
            request_id=request.id,
            headers=self._headers,
            client_timeout=_left(deadline),
        )

    def _ask_again(
        self, request: Request, region: _Region, offsets: Mapping[str, int], deadline: float
    ) -> triton.InferResult:
        try:
            return self._ask(request, region, offsets, deadline)
        except InferenceServerException as error:
            if not _says(error, _NOT_REGISTERED):
                raise
            raise ServerError(
                f"A server keeps the shared memory that is registered with it; given: "
                f"{error.message()}, at {self._url}, although it was registered just before. Let "
                "the address lead to one server only, or use Client(url)."
            ) from error

    def _register(self, region: _Region, timeout: float) -> None:
        try:
            self._server.register_system_shared_memory(
                region.name,
                region.key,
                region.size,
                headers=self._memory_headers(),
                client_timeout=timeout,
            )
        except InferenceServerException as error:
            if _says(error, _RESTRICTED):
                raise AccessDenied(
                    "Shared memory is for clients of the server's own user; given: the server at "
                    f"{self._url} and a client that finds no key of it in "
                    f"{admin_key_file(self._endpoint.address.port).parent}. Run both as one user, "
                    "or use Client(url)."
                ) from error
            if _says(error, _CANNOT_OPEN):
                raise ServerError(
                    "Shared memory is for a server on the same machine, which sees the memory of "
                    f"its client; given: the server at {self._url}, which does not: "
                    f"{error.message()}. Use Client(url) for a server on another machine; start "
                    "one in a container with --ipc=host and as a user that may read the memory."
                ) from error
            if status_of(error) is not grpc.StatusCode.ALREADY_EXISTS:  # by an interrupted call
                raise
        region.registered = True

    async def close(self) -> None:  # noqa: D102
        self._end()
        await super().close()


def layout(tensors: Tensors) -> tuple[dict[str, int], int]:
    """Place the large tensors in one region; return name -> offset, and the total bytes."""
    offsets, end = {}, 0
    for name, tensor in tensors.items():
        if (
            tensor.nbytes >= MIN_SHARED_BYTES and tensor.dtype != np.object_
        ):  # text has no fixed size
            offsets[name] = end
            end += -(-tensor.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return offsets, end


class _Region:
    """Shared memory whose name no other process and no earlier region has.

    Raises:
        InvalidSetting: there is too little memory, or none can be created.
    """

    def __init__(self, size: int) -> None:
        from tritonclient.utils import shared_memory  # cannot be imported everywhere

        self._memory = shared_memory
        self.name = f"cytoserve-client-{os.getpid()}-{secrets.token_hex(4)}"
        self.key = f"/{self.name}"
        self.size = -(-size // REGION_STEP_BYTES) * REGION_STEP_BYTES
        self.registered = False
        try:
            self._handle = shared_memory.create_shared_memory_region(
                self.name, self.key, self.size, create_only=True
            )
        except shared_memory.SharedMemoryException as error:
            raise InvalidSetting(
                f"A client can make files in {FOLDER}; given: {error.__cause__ or error}. Let it, "
                "or use Client(url)."
            ) from error
        try:
            self._reserve()
        except OSError as error:
            self.destroy()
            raise InvalidSetting(
                f"A frame must fit into what is left of {FOLDER}; given: {size} bytes of inputs: "
                f"{error.strerror}. Enlarge it (of a container: --shm-size), or use Client(url)."
            ) from error

    def _reserve(self) -> None:
        """Reserve all pages now: a page missing while the frame is written ends the process."""
        file = os.open(FOLDER / self.name, os.O_RDWR)
        try:
            os.posix_fallocate(file, 0, self.size)
        finally:
            os.close(file)

    def write(self, tensor: NDArray[Any], offset: int) -> None:
        self._memory.set_shared_memory_region(self._handle, [tensor], offset)

    def destroy(self) -> None:
        """Remove the region here; the server holds it until told to unregister it."""
        self._memory.destroy_shared_memory_region(self._handle)


class _Regions:
    """The regions of one transport: one per running call, reused by later calls."""

    def __init__(
        self, server: triton.InferenceServerClient, headers: Callable[[], Mapping[str, str]]
    ) -> None:
        self._server = server
        self._headers = headers
        self._process = os.getpid()
        self._lock = threading.Condition()
        self._lent = 0
        self._idle: list[_Region] = []
        self._forgettable: list[str] = []  # removed here, but not yet unregistered at the server
        self._closed = False

    @contextmanager
    def borrow(self, size: int) -> Iterator[_Region]:
        """Lend a region of at least ``size`` bytes to one call.

        The region of a failed call is not reused, because the server may still read it.
        """
        with self._lock:
            self._lent += 1
            region = self._idle.pop() if self._idle else None
        try:
            if region is not None and region.size < size:
                self._retire(region)
                region = None
            if region is None:
                region = _Region(size)
            try:
                yield region
            except BaseException:
                self._retire(region)
                raise
            with self._lock:
                kept = not self._closed
                if kept:
                    self._idle.append(region)
            if not kept:
                self._retire(region)
            self._forget(FORGET_TIMEOUT_S)  # the server has just answered, so this does not wait
        finally:
            with self._lock:
                self._lent -= 1
                self._lock.notify_all()

    def _retire(self, region: _Region) -> None:
        region.destroy()
        with self._lock:
            self._forgettable.append(region.name)

    def _forget(self, timeout: float) -> bool:
        """Unregister removed regions at the server; return False if it still uses some of them."""
        with self._lock:
            names, self._forgettable = self._forgettable, []
        used = [name for name in names if not self._unregister(name, timeout)]
        with self._lock:
            self._forgettable += used
        return not used

    def _unregister(self, name: str, timeout: float) -> bool:
        """Unregister a name; return whether it is gone, or True if the server cannot be reached."""
        try:
            self._server.unregister_system_shared_memory(
                name, headers=self._headers(), client_timeout=timeout
            )
        except InferenceServerException as error:
            late = status_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
            return not (late or _says(error, _IN_USE))
        except ValueError:  # this connection is closed
            return True
        return True

    def close(self) -> None:
        """Release all regions; running calls have ``FORGET_TIMEOUT_S`` seconds to end."""
        if os.getpid() != self._process:  # a forked process, whose regions belong to its parent
            return
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            self._forgettable += [region.name for region in idle]
        for region in idle:
            region.destroy()
        deadline = time.monotonic() + FORGET_TIMEOUT_S
        with self._lock:
            self._lock.wait_for(lambda: not self._lent, FORGET_TIMEOUT_S)
        # An abandoned call may still run at the server.
        while not self._forget(_left(deadline)) and time.monotonic() < deadline:
            time.sleep(0.05)


def _headers(headers: Mapping[str, str], address: Address) -> dict[str, str]:
    """Return the headers of calls about memory; a server that is started again has a new key."""
    return {**headers, **admin_headers(address)}


def _says(error: InferenceServerException, text: str) -> bool:
    return text in str(error.message())


def _left(deadline: float) -> float:
    """Return the seconds left; at least 1 ms, so that a late call fails by its own deadline."""
    return max(deadline - time.monotonic(), 1e-3)
