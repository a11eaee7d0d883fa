# engram::torch: the PyPI wheel's libtorch as an imported target. The wheel's own find_package(Torch) always
# links libtorch_cuda and fails under CMake 3.25 with C++20, so it is not used.
if(NOT TORCH_ROOT)
  file(GLOB _site ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages)
  list(APPEND _candidates ${_site} $ENV{TORCH_ROOT})
  foreach(_dir ${_candidates})
    if(EXISTS ${_dir}/torch/lib/libtorch_cpu.so)
      set(TORCH_ROOT ${_dir} CACHE PATH "The folder that holds torch/ (a site-packages)" FORCE)
      break()
    endif()
  endforeach()
endif()
if(NOT EXISTS "${TORCH_ROOT}/torch/lib/libtorch_cpu.so")
  message(FATAL_ERROR "libtorch not found: TORCH_ROOT is '${TORCH_ROOT}', wanted a folder with torch/lib/libtorch_cpu.so. "
                      "Run scripts/setup.sh, or configure with -DENGRAM_WITH_TORCH=OFF.")
endif()

add_library(engram_torch INTERFACE)
add_library(engram::torch ALIAS engram_torch)
# The wheel's include folder carries fmt 12, and the project links the system's fmt: a folder that holds nothing but a
# link to the system's headers goes first.
find_path(ENGRAM_FMT_INCLUDE fmt/format.h REQUIRED)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fmt_first)
file(CREATE_LINK ${ENGRAM_FMT_INCLUDE}/fmt ${CMAKE_BINARY_DIR}/fmt_first/fmt SYMBOLIC)
target_include_directories(engram_torch SYSTEM INTERFACE
  ${CMAKE_BINARY_DIR}/fmt_first ${TORCH_ROOT}/torch/include ${TORCH_ROOT}/torch/include/torch/csrc/api/include)
target_compile_definitions(engram_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
target_link_libraries(engram_torch INTERFACE ${TORCH_ROOT}/torch/lib/libtorch_cpu.so ${TORCH_ROOT}/torch/lib/libc10.so)
# A build finds libtorch where it was linked; a bundle is told at run time (scripts/bundle.sh, TORCH_ROOT).
file(GLOB _nvidia_lib_dirs ${TORCH_ROOT}/nvidia/*/lib)
foreach(_dir ${TORCH_ROOT}/torch/lib ${_nvidia_lib_dirs})
  target_link_options(engram_torch INTERFACE -Wl,-rpath-link,${_dir})
  if(NOT ENGRAM_STATIC_DEPS)
    target_link_options(engram_torch INTERFACE -Wl,-rpath,${_dir})
  endif()
endforeach()
if(ENGRAM_STATIC_DEPS)
  set(CMAKE_SKIP_BUILD_RPATH ON)
  target_link_options(engram_torch INTERFACE -Wl,-rpath,$ORIGIN/../lib)
endif()
# libtorch's libraries name ones that a program like this never calls, and that the CPU set lacks.
target_link_options(engram_torch INTERFACE -Wl,--unresolved-symbols=ignore-in-shared-libs)
if(ENGRAM_WITH_CUDA)
  target_compile_definitions(engram_torch INTERFACE ENGRAM_WITH_CUDA=1)
  target_link_libraries(engram_torch INTERFACE -Wl,--no-as-needed ${TORCH_ROOT}/torch/lib/libtorch_cuda.so
                        ${TORCH_ROOT}/torch/lib/libc10_cuda.so -Wl,--as-needed)
endif()

# torch/torch.h costs 17 s a file, and 5 s precompiled: g++ instantiates the templates that the header asks for in every
# file anew. These two, precompiled once (owned by engram_model), cost 2 s; a source names what else it uses. Reading it
# costs as much as a small file: LEAN names the sources that include nothing of torch and go without it.
function(engram_use_torch_pch target)
  cmake_parse_arguments(PCH "" "" "LEAN" ${ARGN})
  if(PCH_LEAN)
    set_source_files_properties(${PCH_LEAN} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
  endif()
  if(target STREQUAL engram_model)
    target_precompile_headers(${target} PRIVATE <torch/types.h> <torch/nn/module.h>)
  else()
    engram_reuse_pch(${target} engram_model)
  endif()
endfunction()
