"""Compiles native kernels and registers them with XLA's foreign function interface.

A kernel is LLVM code of the form rows(frame, first, last): it works on rows first to last of the batch. The handler
around it hands each thread its share of the rows. Offsets are those of XLA's C interface (xla/ffi/api/c_api.h).
"""

import ctypes
import functools
import hashlib
import os
import re
from pathlib import Path

import jax
import llvmlite.binding as llvm
from llvmlite import ir

from jaxgen.recurrent.native.emit import I32, I64, POINTER, pointer
from jaxgen.recurrent.native.matmul import Machine

_EXTENSION, _ARGS, _RETS = 8, 72, 112  # in XLA_FFI_CallFrame: extension_start, args.args, rets.rets
_METADATA, _VERSION = 24, (24, 28)  # in XLA_FFI_Metadata_Extension: metadata; in XLA_FFI_Metadata: major, minor
_DATA, _DIMS = 24, 40  # in XLA_FFI_Buffer
_BYTE = ir.IntType(8)

_engines: list[llvm.ExecutionEngine] = []  # what they compiled must outlive every use of it
_names: set[str] = set()


def available() -> bool:
    """Whether kernels can run here: they start POSIX threads."""
    return os.name == "posix"


@functools.cache
def machine() -> Machine:
    """The processor this runs on."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return Machine(lanes=16, registers=32)
    if features.get("avx"):
        return Machine(lanes=8, registers=16)
    wide = llvm.get_process_triple().startswith(("aarch64", "arm64"))
    return Machine(lanes=4, registers=32 if wide else 16)


def data(builder: ir.IRBuilder, frame: ir.Value, index: int, *, result: bool = False) -> ir.Value:
    """Address of the data of an argument or result of the call."""
    return _load(builder, POINTER, _buffer(builder, frame, index, result), _DATA)


def dimension(builder: ir.IRBuilder, frame: ir.Value, index: int, axis: int) -> ir.Value:
    """Size of an argument of the call along an axis."""
    return _load(builder, I64, _load(builder, POINTER, _buffer(builder, frame, index, False), _DIMS), 8 * axis)


def register(module: ir.Module, rows: ir.Function, threads: int) -> str:
    """Compiles the module, whose `rows` splits argument 0 along its first axis, and returns the name of the target."""
    _handler(module, rows, threads)
    code = str(module)
    name = f"jaxgen_{rows.name}_{hashlib.sha256(code.encode()).hexdigest()[:16]}"
    if name not in _names:
        address = _compile(code)
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(ctypes.CFUNCTYPE(None)(address)), platform="cpu")
        _names.add(name)
    return name


def _compile(code: str) -> int:
    """Address of the handler in machine code for this processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    host = target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    module = llvm.parse_assembly(code)
    module.verify()
    passes = llvm.create_pass_builder(host, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, host)
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address("handler")


def _handler(module: ir.Module, rows: ir.Function, threads: int) -> None:
    """Defines handler(frame): answers questions about the interface's version, else runs `rows` on all threads."""
    task = ir.LiteralStructType([POINTER, I64, I64])
    worker = _worker(module, rows, task)
    create = ir.Function(module, ir.FunctionType(I32, [POINTER] * 4), "pthread_create")
    join = ir.Function(module, ir.FunctionType(I32, [I64, POINTER]), "pthread_join")
    handler = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), "handler")
    (frame,) = handler.args
    builder = ir.IRBuilder(handler.append_basic_block("entry"))
    tasks = [pointer(builder, builder.alloca(task)) for _ in range(threads)]
    handles = [pointer(builder, builder.alloca(I64)) for _ in range(threads)]
    start = pointer(builder, worker)
    nothing = ir.Constant(POINTER, None)
    extension = _load(builder, POINTER, frame, _EXTENSION)
    with builder.if_then(builder.icmp_unsigned("!=", extension, nothing)):
        metadata = _load(builder, POINTER, extension, _METADATA)
        for offset, number in zip(_VERSION, _interface_version(), strict=True):
            builder.store(ir.Constant(I32, number), _at(builder, metadata, offset))
        builder.ret(nothing)
    batch_size = dimension(builder, frame, 0, 0)
    for index in range(threads):
        bounds = [
            builder.udiv(builder.mul(batch_size, ir.Constant(I64, i)), ir.Constant(I64, threads))
            for i in (index, index + 1)
        ]
        for position, value in enumerate((frame, *bounds)):
            builder.store(value, builder.gep(tasks[index], _indices(0, position), source_etype=task))
    failed = [
        builder.icmp_signed("!=", builder.call(create, [handles[i], nothing, start, tasks[i]]), ir.Constant(I32, 0))
        for i in range(1, threads)
    ]
    builder.call(worker, [tasks[0]])
    for index, no_thread in enumerate(failed, start=1):
        with builder.if_else(no_thread) as (inline, elsewhere):
            with inline:
                builder.call(worker, [tasks[index]])
            with elsewhere:
                builder.call(join, [builder.load(handles[index], typ=I64), nothing])
    builder.ret(nothing)


def _worker(module: ir.Module, rows: ir.Function, task: ir.Type) -> ir.Function:
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), "worker")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    address = function.args[0]
    fields = [
        builder.load(builder.gep(address, _indices(0, i), source_etype=task), typ=kind)
        for i, kind in enumerate((POINTER, I64, I64))
    ]
    builder.call(rows, fields)
    builder.ret(ir.Constant(POINTER, None))
    return function


@functools.cache
def _interface_version() -> tuple[int, int]:
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    major, minor = (re.findall(rf"define XLA_FFI_API_{part} (\d+)", header)[0] for part in ("MAJOR", "MINOR"))
    return int(major), int(minor)


def _buffer(builder: ir.IRBuilder, frame: ir.Value, index: int, result: bool) -> ir.Value:
    return _load(builder, POINTER, _load(builder, POINTER, frame, _RETS if result else _ARGS), 8 * index)


def _load(builder: ir.IRBuilder, kind: ir.Type, base: ir.Value, offset: int) -> ir.Value:
    return builder.load(_at(builder, base, offset), typ=kind)


def _at(builder: ir.IRBuilder, base: ir.Value, offset: int) -> ir.Value:
    return builder.gep(base, [ir.Constant(I64, offset)], source_etype=_BYTE)


def _indices(*values: int) -> list[ir.Constant]:
    return [ir.Constant(I32, value) for value in values]
