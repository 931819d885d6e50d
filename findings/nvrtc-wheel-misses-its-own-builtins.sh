#!/usr/bin/env bash
# NVIDIA's wheel of NVRTC for CUDA 13: the compiler does not find its builtins, which lie beside it.
#
# What happens: `libnvrtc.so.13`, loaded by its path, compiles nothing. It fails with "failed to open
#   libnvrtc-builtins.so.13.0. Make sure that [it] is installed correctly", for any source and architecture, although
#   the wheel has put that file into the same folder. The library opens it by name alone and has no RUNPATH. The wheel
#   for CUDA 12.9 has one, `$ORIGIN`, and compiles.
# Expected instead: a wheel whose one purpose is to compile does so once its library is loaded, as the one for CUDA 12
#   does. The message sends its reader to the installation, which is right.
# Why it matters: whoever compiles kernels at run time without a CUDA toolkit has this wheel and no other builtins. It
#   is the one that torch 2.13 asks for. Importing torch's CUDA build hides the fault, as torch then loads both files; a
#   tool or a test that compiles without torch, or beside its CPU build, meets it.
# What helps: load `libnvrtc-builtins.so.*` of that folder first (`ctypes.CDLL`); the loader then knows the name.
# Explained in: not documented. The wheel 13.5.37 has an RPATH and compiles.
# Seen: 2026-11-30, nvidia-cuda-nvrtc 13.0.88 beside nvidia-cuda-nvrtc-cu12 12.9.86, Python 3.11, Linux x86-64. It needs
#   no GPU.
#
# Output seen. The script compares these lines with what it gets:
#= nvidia-cuda-nvrtc-cu12 12.9.86, loaded by its path: NVRTC_SUCCESS
#= nvidia-cuda-nvrtc 13.0.88, loaded by its path: NVRTC_ERROR_BUILTIN_OPERATION_FAILURE
#= nvidia-cuda-nvrtc 13.0.88, builtins beside it: yes
#= nvidia-cuda-nvrtc 13.0.88, builtins loaded before: NVRTC_SUCCESS
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() { # environment, package, "builtins" to load them first
  "$work/$1/bin/python" -I - "$2" "${3:-}" <<'PY'
import ctypes
import importlib.metadata
import sys
from pathlib import Path

SOURCE = b'extern "C" __global__ void twice(float *x) { x[threadIdx.x] *= 2.0f; }'


def outcome(library: ctypes.CDLL) -> str:
    """The name of what compiling `SOURCE` for compute capability 9.0 ended with; NVRTC's log goes to stderr."""
    program, options = ctypes.c_void_p(), (ctypes.c_char_p * 1)(b"--gpu-architecture=sm_90")
    assert library.nvrtcCreateProgram(ctypes.byref(program), SOURCE, b"twice.cu", 0, None, None) == 0
    code = library.nvrtcCompileProgram(program, 1, options)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    print(log.value.decode().strip(), file=sys.stderr)
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library.nvrtcGetErrorString(code).decode()


package, how = sys.argv[1:]
installed = importlib.metadata.distribution(package)
files = [Path(str(each.locate())) for each in installed.files or () if ".so." in each.name]
compiler = next(each for each in files if each.name.startswith("libnvrtc.so."))
builtins = [each for each in compiler.parent.glob("libnvrtc-builtins.so.*") if ".alt." not in each.name]
named = f"{package} {installed.version}"
if how == "builtins":
    print(f"{named}, builtins beside it: {'yes' if builtins else 'no'}")
    for each in builtins:
        ctypes.CDLL(str(each))
moment = "builtins loaded before" if how == "builtins" else "loaded by its path"
print(f"{named}, {moment}: {outcome(ctypes.CDLL(str(compiler)))}")
PY
}

for package in nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-nvrtc==13.0.88; do
  name=${package%%==*}
  python3 -m venv "$work/$name"
  "$work/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
done
{
  compile nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvrtc-cu12
  compile nvidia-cuda-nvrtc nvidia-cuda-nvrtc
  compile nvidia-cuda-nvrtc nvidia-cuda-nvrtc builtins
} >"$work/seen"

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
