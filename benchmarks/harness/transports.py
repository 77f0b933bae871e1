"""The two ways in which frames reach a server, by the names that results give them."""

from __future__ import annotations

from cytoserve.grpc_transport import GrpcTransport
from cytoserve.shared_memory_transport import SharedMemoryTransport

GRPC = "gRPC"
SHARED_MEMORY = "shared memory"
TRANSPORTS = {GRPC: GrpcTransport, SHARED_MEMORY: SharedMemoryTransport}
