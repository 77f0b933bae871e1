"""Triton's ``onnxruntime`` backend in Python, for servers without NVIDIA's native one.

A model whose configuration says ``backend: "onnxruntime"`` behaves here as it does there: what is
filled in from the ONNX file, what is refused at load and in which words, one run for a whole batch,
and answers of ``onnx runtime error N: ...``. So a model repository needs no second version.

Triton's worker process (the "stub") imports this file by itself, so it uses nothing of cytoserve.
The reference is ``src/onnxruntime.cc`` of triton-inference-server/onnxruntime_backend.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the library is imported
import onnxruntime as ort

Config = dict[str, Any]
"""A model's configuration as Triton passes it: the protobuf message, as JSON."""

Array = np.ndarray[Any, Any]

Accelerator = tuple[str, dict[str, str]]
"""Name and options of an execution provider of ONNX Runtime."""

CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
CUDA = "CUDAExecutionProvider"

CUDA_CHOICES = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
"""Parameter of a configuration that chooses by number -> the provider's names of the choices."""

CUDA_VALUES = ("gpu_mem_limit", "do_copy_in_default_stream")
"""Parameters of a configuration that go to the CUDA provider as they are."""

DEFAULT_MAX_BATCH_SIZE = 4
"""Default of Triton's own ``--backend-config=default-max-batch-size``."""

CONFIG_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""``optimization.graph.level``; every other value, 0 included, enables all optimisations."""

SPIN_US = 20
"""Microseconds for which an idle thread of a session spins while it waits for its next work."""

EXECUTION_MODES = {
    0: ort.ExecutionMode.ORT_SEQUENTIAL,
    1: ort.ExecutionMode.ORT_PARALLEL,
}


class TritonPythonModel:
    """One instance of one model: the class that Triton's worker looks for by this name."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in from the ONNX file what the configuration does not list at all."""
        config: Config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        version = Path(pb_utils.get_model_dir())
        session = open_session(version / model_filename(config), ort.SessionOptions())
        complete_batching(config, session)
        for side, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
            if not config[side]:
                config[side] = [described(node, config["max_batch_size"] > 0) for node in nodes]
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session and refuse a configuration that does not fit the graph."""
        config: Config = json.loads(args["model_config"])
        path = Path(args["model_repository"], args["model_version"], model_filename(config))
        on_gpu = args["model_instance_kind"] == "GPU"
        gpu = args["model_instance_device_id"] if on_gpu else None
        self.session = open_session(path, session_options(config), accelerators(config, gpu))
        check_inputs(config, self.session)
        check_outputs(config, self.session)
        self.name = args["model_name"]
        self.batches = config["max_batch_size"] > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.scalar_inputs = {node.name for node in graph_inputs(self.session) if not node.shape}
        self.dims = {tensor["name"]: config_dims(tensor) for tensor in config["output"]}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer ``requests`` in order, from one run if the model batches."""
        if self.batches:
            return self.answer_together(requests)
        return [self.answer_together([request])[0] for request in requests]

    def answer_together(self, requests: Sequence[Any]) -> list[Any]:
        """Concatenate along the batch dimension, run once, and split the result."""
        feeds = [self.feed(request) for request in requests]
        readable = [feed for feed in feeds if isinstance(feed, dict)]
        wanted = self.wanted_outputs(requests)
        try:
            results = self.run(readable, wanted) if readable else []
        except Exception as error:  # whatever a graph may throw ends in its requests' answers
            # One object each: an error shared by two responses makes the server crash.
            text, internal = error_text(error), pb_utils.TritonError.INTERNAL
            results = [pb_utils.TritonError(text, internal) for _ in readable]
        remaining = iter(results)
        answers = [next(remaining) if isinstance(feed, dict) else feed for feed in feeds]
        for request, answer in zip(requests, answers, strict=True):
            if not isinstance(answer, dict):  # the caller's error names the same request
                told = f"[request id: {request.request_id()}] {self.name}: {answer.message()}"
                pb_utils.Logger.log_error(told)
        return [
            response(answer, request.requested_output_names())
            for answer, request in zip(answers, requests, strict=True)
        ]

    def feed(self, request: Any) -> Any:
        """Input arrays by name, or the error of an unusable request.

        The worker has copied the arrays out of shared memory before this file sees the request.
        """
        arrays = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:  # optional: the graph's own initializer stands
                continue
            array = tensor.as_numpy()
            if array.dtype == np.object_:
                try:
                    array = as_text(array)
                except UnicodeDecodeError:
                    message = f"input '{name}': BYTES elements must be UTF-8 text"
                    return pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
            arrays[name] = array.reshape(()) if name in self.scalar_inputs else array
        return arrays

    def wanted_outputs(self, requests: Sequence[Any]) -> list[str]:
        """Return the outputs that any of ``requests`` asks for; the rest is not copied."""
        asked = set[str]().union(*(request.requested_output_names() for request in requests))
        return [name for name in self.outputs if name in asked]

    def run(self, feeds: Sequence[dict[str, Array]], wanted: list[str]) -> list[dict[str, Array]]:
        """Run all ``feeds`` at once; return the arrays of each, by output name."""
        if len(feeds) == 1:
            return [self.named(wanted, self.session.run(wanted, feeds[0]))]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        arrays = self.named(wanted, self.session.run(wanted, joined))
        rows = [len(next(iter(feed.values()))) for feed in feeds]
        for name, array in arrays.items():
            if len(array) != sum(rows):
                raise ValueError(f"output '{name}' has {len(array)} rows for {sum(rows)} inputs")
        cuts = np.cumsum(rows)[:-1]
        pieces = {name: np.split(array, cuts) for name, array in arrays.items()}
        return [{name: pieces[name][i] for name in wanted} for i in range(len(feeds))]

    def named(self, names: list[str], arrays: list[Array]) -> dict[str, Array]:
        """Pair names with arrays; a scalar takes the shape that the configuration gives it."""
        return {
            name: array if np.ndim(array) else np.reshape(array, self.dims[name])
            for name, array in zip(names, arrays, strict=True)
        }


# -- Answers ------------------------------------------------------------------------------------
def response(answer: Any, requested: Sequence[str]) -> Any:
    """Wrap arrays by name, or an error, as Triton's response."""
    if not isinstance(answer, dict):
        return pb_utils.InferenceResponse(error=answer)
    tensors = [pb_utils.Tensor(name, answer[name]) for name in answer if name in requested]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def as_text(array: Array) -> Array:
    """Decode an object array of ``bytes`` to ``str``: ONNX Runtime would print ``b'...'``."""
    decoded = [bytes(item).decode() for item in array.flat]
    return np.array(decoded, dtype=np.object_).reshape(array.shape)


def error_text(error: Exception) -> str:
    """Spell an error as the native backend does: status number, and no path of this machine."""
    found = re.match(r"\[ONNXRuntimeError\] : (\d+) : \w+ : (.*)", str(error), re.DOTALL)
    number, text = found.groups() if found else ("1", str(error))
    # This cuts folders of the build machine, /onnxruntime_src/..., but not the names of nodes.
    text = re.sub(r"/onnxruntime_src/(?:\S*/)?", "", text)
    return f"onnx runtime error {number}: {text.strip()}"


# -- The session --------------------------------------------------------------------------------
def model_filename(config: Config) -> str:
    """Return the name of the ONNX file inside a version folder."""
    return config.get("default_model_filename") or "model.onnx"


def open_session(
    path: Path, options: ort.SessionOptions, accelerated_by: Sequence[Accelerator] = ()
) -> ort.InferenceSession:
    """Load ``path``, or the ``model.onnx`` inside it where it is a folder."""
    path = path / "model.onnx" if path.is_dir() else path
    if not path.exists():
        refuse(f"unable to find '{path.parent.name}/{path.name}'")
    providers = [*accelerated_by, (CPU, {})]
    try:
        session = ort.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no base class
        refuse(error_text(error).replace(f"{path.parent}/", ""))
    # ONNX Runtime's Python falls back to its own provider where another one fails.
    if absent := {name for name, _ in providers} - set(session.get_providers()):
        refuse(f"onnx runtime error 1: {', '.join(absent)} could not be used for this model")
    return session


def accelerators(config: Config, gpu: str | None = None) -> list[Accelerator]:
    """Read ``optimization.execution_accelerators`` for an instance on the CPU or on one GPU.

    An instance of ``KIND_GPU`` always gets the CUDA provider. ``gpu`` is the number of its device,
    of those that ``gpus`` of its group lists or of all. Triton makes an instance for each.

    Of accelerators of a CPU, the native backend knows only ``openvino``, and only if it was built
    with it; it passes on none of the accelerator's parameters. Here, they are OpenVINO's provider
    options, as those of ``cuda`` are in the native backend. So a configuration may ask for bfloat16
    and loads in both; the native backend then computes in float32.
    """
    entries = config.get("optimization", {}).get("execution_accelerators", {})
    available = ort.get_available_providers()
    if gpu is not None and CUDA not in available:
        refuse(f"KIND_GPU needs {CUDA}, and this ONNX Runtime has {', '.join(available)} only")
    found = [] if gpu is None else [(CUDA, cuda_options(config, gpu))]
    for entry in entries.get("cpu_execution_accelerator", []):
        if entry["name"] != "openvino" or OPENVINO not in available:
            refuse(f"unknown Execution Accelerator '{entry['name']}' is requested")
        threads = {"num_of_threads": str(thread_count(config))} if thread_count(config) else {}
        found.append((OPENVINO, {"device_type": "CPU", **threads, **entry.get("parameters", {})}))
    return found


def cuda_options(config: Config, gpu: str) -> dict[str, str]:
    """Options of the CUDA provider: those of the accelerator `cuda`, then those of ``parameters``.

    What neither gives is the provider's own default. The native backend sets defaults of its own
    for ``parameters`` that are not there, even over the accelerator's options; so a configuration
    that gives both means the same in both backends.
    """
    options: dict[str, str] = {}
    entries = config.get("optimization", {}).get("execution_accelerators", {})
    for entry in entries.get("gpu_execution_accelerator", []):
        if entry["name"] != "cuda":
            refuse(f"unknown Execution Accelerator '{entry['name']}' is requested")
        options |= entry.get("parameters", {})
    for name, choices in CUDA_CHOICES.items():
        number = parameter(config, name, integer, None)
        if number is None:
            continue
        if number not in range(len(choices)):
            refuse(f"unsupported {name} value '{number}' is requested")
        options[name] = choices[number]
    for name in CUDA_VALUES:
        value = parameter(config, name, str, None)
        if value is not None:
            options[name] = value
    return {**options, "device_id": gpu}


def session_options(config: Config) -> ort.SessionOptions:
    """Read the five parameters and the graph level that the native backend knows."""
    options = ort.SessionOptions()
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    options.graph_optimization_level = GRAPH_LEVELS.get(
        level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    mode = parameter(config, "execution_mode", integer, 0)
    if mode not in EXECUTION_MODES:
        refuse(
            "Invalid configuration value provided. Expected values for execution_mode are 0 or 1 "
            f"but got {mode} ."
        )
    options.execution_mode = EXECUTION_MODES[mode]
    options.intra_op_num_threads = thread_count(config)
    options.inter_op_num_threads = parameter(config, "inter_op_thread_count", integer, 0)
    options.enable_cpu_mem_arena = parameter(config, "enable_mem_arena", boolean, True)
    options.enable_mem_pattern = parameter(config, "enable_mem_pattern", boolean, True)
    for name, value in spinning(ort.__version__).items():
        options.add_session_config_entry(name, value)
    return options


def spinning(version: str) -> dict[str, str]:
    """Session options for idle threads: spin until the next operator, not the next request.

    Waking a thread for every operator took 7 % of the time of YOLO and ResNet50 on 2 cores. But
    threads that keep spinning after a run, by default for a million turns, take the cores from the
    worker of the next step. Requests at the same time lose 1 to 2 % with 20 us, and 3 to 9 % with
    50 us. ONNX Runtime before 1.26 has no such limit, so there no thread spins.
    """
    between_graphs = {"session.inter_op.allow_spinning": "0"}
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 26):
        return {**between_graphs, "session.intra_op.allow_spinning": "0"}
    return {**between_graphs, "session.intra_op.spin_duration_us": str(SPIN_US)}


def thread_count(config: Config) -> int:
    """Threads of one operator: the model's own number, or else its share of the launcher's bound.

    Instances of one model are meant to run at the same time, so they share the bound. 0 is ONNX
    Runtime's own choice, every core of the machine.
    """
    own: int = parameter(config, "intra_op_thread_count", integer, 0)
    bound = int(os.environ.get("OMP_NUM_THREADS", "0"))
    if own or not bound:
        return own
    instances: int = sum(group["count"] for group in config.get("instance_group", []))
    return max(1, bound // max(1, instances))


def parameter(config: Config, name: str, parse: Callable[[str], Any], default: Any) -> Any:
    """Return one of the configuration's ``parameters``, parsed, or ``default``."""
    entry = config.get("parameters", {}).get(name)
    return default if entry is None else parse(entry["string_value"])


def integer(value: str) -> int:
    """Read leading digits and ignore the rest, as C++'s ``stoi`` does."""
    found = re.match(r"\s*[+-]?\d+", value)
    if not found:
        refuse(f"failed to convert '{value}' to integral number")
    return int(found.group())


def boolean(value: str) -> bool:
    """Read the spellings that the native backend takes."""
    if value.lower() in ("true", "on", "1"):
        return True
    if value.lower() not in ("false", "off", "0"):
        refuse(f"failed to convert '{value}' to boolean")
    return False


# -- Completing a configuration -------------------------------------------------------------------
def complete_batching(config: Config, session: ort.InferenceSession) -> None:
    """Set ``max_batch_size`` and dynamic batching where every first dimension is variable."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    if not all(node.shape and fixed(node)[0] == -1 for node in nodes):
        if config["max_batch_size"]:
            refuse(
                f"autofill failed for model '{config['name']}': model does not support batching "
                "while non-zero max_batch_size is specified"
            )
        return
    config["max_batch_size"] = config["max_batch_size"] or DEFAULT_MAX_BATCH_SIZE
    if config["max_batch_size"] > 1 and "sequence_batching" not in config:
        config.setdefault("dynamic_batching", {})


def described(node: Any, batches: bool) -> Config:
    """Describe a graph's input or output as the configuration would."""
    entry: Config = {"name": node.name, "data_type": config_type(node)}
    entry["dims"] = fixed(node)[1:] if batches else fixed(node)
    if not entry["dims"]:  # Triton knows no empty dims
        entry["dims"] = [1]
        if batches:
            entry["reshape"] = {"shape": []}
    return entry


def fixed(node: Any) -> list[int]:
    """Return the dims of a graph's input or output, -1 for symbolic ones."""
    return [dim if isinstance(dim, int) else -1 for dim in node.shape]


def config_type(node: Any) -> str:
    """Return the configuration's name of a node's data type."""
    if not node.type.startswith("tensor("):
        kind = {"seq": "SEQUENCE", "map": "MAP"}.get(node.type.split("(")[0], "UNKNOWN")
        refuse(
            f"Unsupported ONNX Type 'ONNX_TYPE_{kind}' for I/O '{node.name}', "
            "expected 'ONNX_TYPE_TENSOR'."
        )
    return CONFIG_TYPES.get(node.type, "TYPE_INVALID")


# -- Refusals at load -----------------------------------------------------------------------------
def refuse(reason: str) -> NoReturn:
    """Fail the load of this model."""
    raise pb_utils.TritonModelException(reason)


def graph_inputs(session: ort.InferenceSession) -> list[Any]:
    """Return what a request may give: inputs, and initializers that it may override."""
    return [*session.get_inputs(), *session.get_overridable_initializers()]


def check_inputs(config: Config, session: ort.InferenceSession) -> None:
    """Refuse inputs that the graph lacks, or has with another type or shape."""
    expected = sum(not tensor["optional"] for tensor in config["input"])
    if expected != len(session.get_inputs()):
        refuse(
            f"unable to load model '{config['name']}', configuration expects {expected} inputs, "
            f"model provides {len(session.get_inputs())}"
        )
    nodes = {node.name: node for node in graph_inputs(session)}
    for tensor in config["input"]:
        if tensor["optional"] and config["max_batch_size"]:
            refuse(
                f"unable to load model '{config['name']}', optional input '{tensor['name']}' is "
                "not supported for models that support batching"
            )
        check_tensor(config, tensor, nodes, "input")


def check_outputs(config: Config, session: ort.InferenceSession) -> None:
    """Refuse outputs that the graph lacks, or has with another type or shape."""
    nodes = {node.name: node for node in session.get_outputs()}
    for tensor in config["output"]:
        check_tensor(config, tensor, nodes, "output")


def check_tensor(config: Config, tensor: Config, nodes: dict[str, Any], side: str) -> None:
    """Refuse one entry of the configuration that does not fit its node of the graph."""
    name = tensor["name"]
    if name not in nodes:
        allowed = ", ".join(sorted(nodes))
        refuse(f"unexpected inference {side} '{name}', allowed {side}s are: {allowed}")
    provided = config_type(nodes[name])
    if tensor["data_type"] != provided:
        refuse(
            f"unable to load model '{config['name']}', configuration expects datatype "
            f"{tensor['data_type']} for {side} '{name}', model provides {provided}"
        )
    if nodes[name].shape:
        check_dims(config, tensor, fixed(nodes[name]), exact=side == "output")
    elif any(dim != 1 for dim in config_dims(tensor)):
        refuse(
            f"unable to load model '{config['name']}', scalar tensor '{name}', should only provide "
            "1 in the model configuration when the model doesn't support batching. Model "
            f"configuration provided: {shape_text(config_dims(tensor))}."
        )


def check_dims(config: Config, tensor: Config, graph: list[int], exact: bool) -> None:
    """Refuse dims that are not the graph's; where not ``exact``, its variable ones may be fixed."""
    batches = config["max_batch_size"] > 0
    subject = f"model '{config['name']}', tensor '{tensor['name']}'"
    if batches and graph[0] != -1:
        refuse(
            f"{subject}: for the model to support batching the shape should have at least 1 "
            "dimension and the first dimension must be -1; but shape expected by the model is "
            f"{shape_text(graph)}"
        )
    dims = [-1, *config_dims(tensor)] if batches else config_dims(tensor)
    pairs = zip(graph, dims, strict=False)
    if len(graph) == len(dims) and all(
        model == given or (model == -1 and not exact) for model, given in pairs
    ):
        return
    batch_note = (
        "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor "
        f"shape, making complete shape {shape_text(dims)}"
    )
    refuse(
        f"{subject}: the model expects {len(graph)} dimensions (shape {shape_text(graph)}) but the "
        f"model configuration specifies {len(dims)} dimensions "
        f"({batch_note if batches else f'shape {shape_text(dims)}'})"
    )


def config_dims(tensor: Config) -> list[int]:
    """Return the dims that reach the graph: after ``reshape``, where the entry has one."""
    dims = tensor["reshape"].get("shape", []) if "reshape" in tensor else tensor["dims"]
    return [int(dim) for dim in dims]  # 64-bit numbers are text in protobuf's JSON


def shape_text(dims: Sequence[int]) -> str:
    """Print dims as Triton does: ``[-1,3]``."""
    return f"[{','.join(map(str, dims))}]"
