#!/usr/bin/env bash
# Lets `import torch` work from the CPU half of the CUDA wheel that scripts/libtorch.sh keeps.
#
# libtorch_python.so asks the loader for libtorch_cuda, cuDNN and cuFile although a CPU run calls nothing in them. This makes
# three small libraries of those names: the first exports every symbol that would stay undefined, as functions that do
# nothing. Such a Python computes on the CPU only; it says that no CUDA device is there.
# Usage: cuda_stubs.sh TORCH_LIB_FOLDER OUT_FOLDER
set -euo pipefail
torch_lib=$1
out=$2
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

defined() { nm -D --defined-only "$1" | awk '{print $NF}' | cut -d@ -f1; }
nm -D --undefined-only "$torch_lib/libtorch_python.so" | awk '{print $NF}' | cut -d@ -f1 | sort -u > "$work/needed"
{
    for library in "$torch_lib"/lib{torch_cpu,c10,c10_cuda,torch,shm}.so; do defined "$library"; done
    for name in libstdc++.so.6 libc.so.6 libm.so.6 libgcc_s.so.1; do defined "$(gcc -print-file-name="$name")"; done
} | sort -u > "$work/available"
# Python's own symbols come from the interpreter, the runtime's from libcudart beside the wheel.
comm -23 "$work/needed" "$work/available" | grep -vE '^(_?Py|__tls_get_addr|cudart|cudaR|__cuda|cuda[A-Z]|_ITM_|__gmon|__cxa_finalize)' > "$work/missing" || true
# Functions return the address of one zeroed, page-aligned block: read as a reference it can be written (static initialisers
# do), read as a bool it is false. Type descriptors need a name because pybind11 hashes it; every other object is zeros.
{
    printf '.bss\n.balign 4096\nstub_block: .zero 65536\n'
    while read -r symbol; do
        case $symbol in
        _ZTI*)
            printf '.section .data.rel,"aw"\n.balign 8\n.globl "%s"\n.type "%s", @object\n"%s": .quad 0, 1f, 0, 0\n' \
                "$symbol" "$symbol" "$symbol"
            printf '.section .rodata\n1: .asciz "%s"\n' "${symbol#_ZTI}"
            ;;
        _ZTV*)
            printf '.bss\n.balign 16\n.globl "%s"\n.type "%s", @object\n"%s": .zero 512\n' "$symbol" "$symbol" "$symbol"
            ;;
        *)
            printf '.text\n.globl "%s"\n.type "%s", @function\n"%s": leaq stub_block(%%rip), %%rax\n ret\n' \
                "$symbol" "$symbol" "$symbol"
            ;;
        esac
    done < "$work/missing"
    echo '.section .note.GNU-stack,"",@progbits'
} > "$work/stub.s"
cc -shared -nostdlib -Wl,-soname,libtorch_cuda.so -o "$out/libtorch_cuda.so" "$work/stub.s"
for soname in libcudnn.so.9 libcufile.so.0; do
    echo 'void parity_stub_unused(void) {}' | cc -shared -fPIC -Wl,-soname,"$soname" -o "$out/$soname" -x c -
done
