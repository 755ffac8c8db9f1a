#!/bin/sh
# Builds the emulator's two libraries into lib/; with `test` it runs known kernels too. Wants g++ (Debian: g++), as does every run.
set -e
cd "$(dirname "$0")"
mkdir -p lib
cxx="${CXX:-g++} -std=c++17 -O1 -fPIC -Wall"
parts=
for part in compile ptx driver nvrtc; do
    $cxx -c -o lib/$part.o src/$part.cpp &
    parts="$parts $!"
done
for part in $parts; do wait "$part"; done
$cxx -shared -o lib/libcuda.so.1 -Wl,-soname,libcuda.so.1 lib/driver.o lib/compile.o lib/ptx.o -ldl -pthread
$cxx -shared -o lib/libnvrtc.so.12 -Wl,-soname,libnvrtc.so.12 lib/nvrtc.o lib/compile.o lib/ptx.o -ldl
ln -sf libcuda.so.1 lib/libcuda.so
ln -sf libnvrtc.so.12 lib/libnvrtc.so
echo "built: $(pwd)/lib"
if [ "${1:-}" = test ]; then
    ${CXX:-g++} -std=c++17 -O1 -w -o lib/selftest src/selftest.cpp -Llib -lcuda -lnvrtc
    ./emulate lib/selftest
fi
