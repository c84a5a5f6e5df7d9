"""Compiles native kernels and registers them with XLA's foreign function interface.

A kernel is LLVM code of the form work(frame, first, last, part, parts, arrivals): it works on rows first to last of the
batch, and there on one of some parts of the hidden units, whose threads meet at `arrivals` after each step. The handler
around it hands each thread its share. Offsets are those of XLA's C interface (xla/ffi/api/c_api.h).
"""

import ctypes
import functools
import hashlib
import os
import re
import warnings
from pathlib import Path

import jax
import llvmlite.binding as llvm
from llvmlite import ir

from jaxgen.nn.recurrent.native.emit import I32, I64, POINTER, pointer
from jaxgen.nn.recurrent.native.matmul import Machine

_EXTENSION, _ARGS, _RETS = 8, 72, 112  # in XLA_FFI_CallFrame: extension_start, args.args, rets.rets
_METADATA, _VERSION = 24, (24, 28)  # in XLA_FFI_Metadata_Extension: metadata; in XLA_FFI_Metadata: major, minor
_DATA, _DIMS = 24, 40  # in XLA_FFI_Buffer
_WRITTEN_FOR = (0, 3)  # version of the interface: major, minor
_LINE = 8  # 64-bit words of a cache line: what threads write to apart should lie apart
_PATIENCE = 1_000  # looks before a waiting thread lets others run
_BYTE = ir.IntType(8)

# LLVM's features with vectors wider than those of SSE, and those that each instruction set of XLA's has of them.
_WIDE = re.compile(r"avx|fma|f16c|vaes|vpclmulqdq|xop|amx|sha512|sm[34]")
_WITHIN = {"SSE4_2": frozenset[str](), "AVX": frozenset({"avx"}), "AVX2": frozenset({"avx", "avx2", "fma", "f16c"})}

_engines: list[llvm.ExecutionEngine] = []  # what they compiled must outlive every use of it
_names: set[str] = set()


@functools.cache
def available() -> bool:
    """Whether kernels can run here: they start POSIX threads, and read XLA's structures as they were laid out when this
    was written.
    """
    if os.name != "posix":
        return False
    if _interface_version() != _WRITTEN_FOR:
        written, found = (".".join(map(str, version)) for version in (_WRITTEN_FOR, _interface_version()))
        warnings.warn(
            f"the native recurrence knows version {written} of XLA's foreign function interface, and this jaxlib has "
            f"{found}: the slower lax.scan runs instead; install a jaxlib that constraints.txt names.",
            stacklevel=2,
        )
        return False
    return True


@functools.cache
def features() -> llvm.FeatureMap:
    """What kernels may use of this processor: all it has, or as much as `--xla_cpu_max_isa` in XLA_FLAGS leaves to XLA.

    Empty where LLVM cannot tell, as on some systems for arm64: there the processor's name stands for what each has.
    """
    try:
        found = llvm.get_host_cpu_features()
    except RuntimeError:
        return llvm.FeatureMap()
    limits = re.findall(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", ""))
    within = _WITHIN.get(limits[-1].upper()) if limits else None  # XLA heeds the last
    if within is not None:
        found.update({name: False for name in found if _WIDE.match(name) and name not in within})
    return found


@functools.cache
def machine() -> Machine:
    """The processor this runs on."""
    if features().get("avx512f"):
        return Machine(lanes=16, registers=32)
    if features().get("avx"):
        return Machine(lanes=8, registers=16)
    wide = llvm.get_process_triple().startswith(("aarch64", "arm64"))
    return Machine(lanes=4, registers=32 if wide else 16)


def data(builder: ir.IRBuilder, frame: ir.Value, index: int, *, result: bool = False) -> ir.Value:
    """Address of the data of an argument or result of the call."""
    return _load(builder, POINTER, _buffer(builder, frame, index, result), _DATA)


def dimension(builder: ir.IRBuilder, frame: ir.Value, index: int, axis: int) -> ir.Value:
    """Size of an argument of the call along an axis."""
    return _load(builder, I64, _load(builder, POINTER, _buffer(builder, frame, index, False), _DIMS), 8 * axis)


WORK = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64, I64, I64, POINTER])
"""Type of a kernel."""


def register(module: ir.Module, work: ir.Function, threads: int, row_groups: int) -> str:
    """Compiles the module and returns the name of the target. Argument 0 of a call is split along its first axis into
    `row_groups`; the threads of a group, as many in each, share its hidden units.
    """
    _handler(module, work, threads, row_groups)
    code = str(module)
    name = f"jaxgen_{work.name}_{hashlib.sha256((code + features().flatten()).encode()).hexdigest()[:16]}"
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
    host = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features().flatten(), opt=3, jit=True)
    module = llvm.parse_assembly(code)
    module.verify()
    passes = llvm.create_pass_builder(host, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, host)
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address("handler")


def wait_until(builder: ir.IRBuilder, counter: ir.Value, least: ir.Value) -> None:
    """Waits until an atomic counter has come to `least`."""
    module = builder.module
    let_others_run = module.globals.get("sched_yield") or ir.Function(module, ir.FunctionType(I32, []), "sched_yield")
    look, again, rest, end = (builder.append_basic_block(label) for label in ("look", "again", "rest", "end"))
    before = builder.block
    builder.branch(look)
    builder.position_at_end(look)
    looks = builder.phi(I64)
    looks.add_incoming(ir.Constant(I64, 0), before)
    builder.cbranch(builder.icmp_signed(">=", read(builder, counter), least), end, again)
    builder.position_at_end(again)
    looked = builder.add(looks, ir.Constant(I64, 1))
    looks.add_incoming(looked, again)
    builder.cbranch(builder.icmp_signed("<", looked, ir.Constant(I64, _PATIENCE)), look, rest)
    builder.position_at_end(rest)
    builder.call(let_others_run, [])
    looks.add_incoming(ir.Constant(I64, 0), rest)
    builder.branch(look)
    builder.position_at_end(end)


def read(builder: ir.IRBuilder, counter: ir.Value) -> ir.Value:
    """Value of an atomic counter; what was written before it was raised is seen from here on."""
    return builder.load_atomic(counter, "acquire", align=8, typ=I64)


def _handler(module: ir.Module, work: ir.Function, threads: int, row_groups: int) -> None:
    """Defines handler(frame): answers questions about the interface's version, else runs `work` on all threads."""
    worker = _worker(module, work, threads, row_groups)
    create = ir.Function(module, ir.FunctionType(I32, [POINTER] * 4), "pthread_create")
    join = ir.Function(module, ir.FunctionType(I32, [I64, POINTER]), "pthread_join")
    handler = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), "handler")
    (frame,) = handler.args
    builder = ir.IRBuilder(handler.append_basic_block("entry"))
    tasks = [pointer(builder, builder.alloca(_TASK)) for _ in range(threads)]
    handles = [pointer(builder, builder.alloca(I64)) for _ in range(threads)]
    counters = pointer(builder, builder.alloca(I64, (1 + row_groups) * _LINE))
    nothing = ir.Constant(POINTER, None)
    extension = _load(builder, POINTER, frame, _EXTENSION)
    with builder.if_then(builder.icmp_unsigned("!=", extension, nothing)):
        metadata = _load(builder, POINTER, extension, _METADATA)
        for offset, number in zip(_VERSION, _WRITTEN_FOR, strict=True):
            builder.store(ir.Constant(I32, number), _at(builder, metadata, offset))
        builder.ret(nothing)
    for group in range(1 + row_groups):
        builder.store(ir.Constant(I64, 0), _counter(builder, counters, ir.Constant(I64, group)))
    running: ir.Value = ir.Constant(I64, 0)
    made = []
    for index in range(threads):
        for position, value in enumerate((frame, counters, running)):
            builder.store(value, builder.gep(tasks[index], _indices(0, position), source_etype=_TASK))
        if index:
            failed = builder.call(create, [handles[index], nothing, pointer(builder, worker), tasks[index]])
            made.append(builder.icmp_signed("==", failed, ir.Constant(I32, 0)))
            running = builder.add(running, builder.zext(made[-1], I64))
        else:
            running = ir.Constant(I64, 1)
    builder.atomic_rmw("add", counters, running, "acq_rel")  # now they know how many they are
    builder.call(worker, [tasks[0]])
    for handle, thread in zip(handles[1:], made, strict=True):
        with builder.if_then(thread):
            builder.call(join, [builder.load(handle, typ=I64), nothing])
    builder.ret(nothing)


_TASK = ir.LiteralStructType([POINTER, POINTER, I64])
"""Of a thread: the call's frame, the counters (how many threads there are, then arrivals of each group), its index."""


def _worker(module: ir.Module, work: ir.Function, threads: int, row_groups: int) -> ir.Function:
    """worker(task): finds the share of one thread. Where not all could be made, those there are share all rows."""
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), "worker")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    frame, counters, index = (
        builder.load(builder.gep(function.args[0], _indices(0, i), source_etype=_TASK), typ=kind)
        for i, kind in enumerate(_TASK.elements)
    )
    wait_until(builder, counters, ir.Constant(I64, 1))
    there = read(builder, counters)
    complete = builder.icmp_signed("==", there, ir.Constant(I64, threads))
    groups = builder.select(complete, ir.Constant(I64, row_groups), ir.Constant(I64, 1))
    parts = builder.udiv(there, groups)
    group, part = builder.urem(index, groups), builder.udiv(index, groups)
    first, last = share(builder, dimension(builder, frame, 0, 0), group, groups)
    arrivals = _counter(builder, counters, builder.add(group, ir.Constant(I64, 1)))
    builder.call(work, [frame, first, last, part, parts, arrivals])
    builder.ret(ir.Constant(POINTER, None))
    return function


def share(builder: ir.IRBuilder, size: ir.Value, part: ir.Value, parts: ir.Value) -> tuple[ir.Value, ir.Value]:
    """First and last (exclusive) of a part of `size` things."""
    following = builder.add(part, ir.Constant(I64, 1))
    return builder.udiv(builder.mul(size, part), parts), builder.udiv(builder.mul(size, following), parts)


def _counter(builder: ir.IRBuilder, counters: ir.Value, index: ir.Value) -> ir.Value:
    return builder.gep(counters, [builder.mul(index, ir.Constant(I64, _LINE))], source_etype=I64)


@functools.cache
def _interface_version() -> tuple[int, int]:
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text(encoding="utf-8")
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
