if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)  # a test of the C ABI and an example
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

option(ANYFP8_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(ANYFP8_CLI "Build the anyfp8 program" ${PROJECT_IS_TOP_LEVEL})
option(ANYFP8_WERROR "Warnings are errors" OFF)
option(ANYFP8_CUDA "Compile the CUDA sources (*.cu) of the kernel folders; needs the CUDA toolkit" OFF)
option(ANYFP8_BENCH_PEERS "Build oneDNN and OpenBLAS into the program, for anyfp8 bench --peers" OFF)
option(ANYFP8_FUZZ "Build the libFuzzer targets (clang only)" OFF)
set(ANYFP8_SANITIZE "" CACHE STRING "Sanitizers to build with: address,undefined or thread")

find_program(ANYFP8_CCACHE ccache)
if(ANYFP8_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ANYFP8_CCACHE})
endif()

if(ANYFP8_CUDA)
  find_package(CUDAToolkit REQUIRED)
  if(NOT CMAKE_CUDA_COMPILER)  # where nvcc is not in PATH
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # each file has its own: anyfp8_cuda_code()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 has not heard of nvcc's C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
endif()

find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Threads REQUIRED)

# Flags of every target. No -m flags here or anywhere: a file compiled for a newer CPU leaks its inline
# functions into the whole program. Kernels use target regions (kernels/common/target_region.h).
add_library(anyfp8_flags INTERFACE)
target_include_directories(anyfp8_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(anyfp8_flags INTERFACE ANYFP8_VERSION="${PROJECT_VERSION}")
if(ANYFP8_CUDA)
  target_compile_definitions(anyfp8_flags INTERFACE ANYFP8_HAVE_CUDA)
  target_link_libraries(anyfp8_flags INTERFACE CUDA::cudart_static CUDA::cublasLt)
  # Errors name their place in the tree, not on the machine that built it.
  set(prefix -ffile-prefix-map=${PROJECT_SOURCE_DIR}/=)
  target_compile_options(anyfp8_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${prefix}>"
                                                "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${prefix}>")
endif()
set(warnings -Wall -Wextra -Wpedantic -Wno-missing-field-initializers)
if(ANYFP8_WERROR)
  list(APPEND warnings -Werror)
endif()
target_compile_options(anyfp8_flags INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${warnings}>")
if(ANYFP8_SANITIZE)
  target_compile_options(anyfp8_flags INTERFACE -fsanitize=${ANYFP8_SANITIZE} -fno-omit-frame-pointer
                                                -fno-sanitize-recover=all)
  target_link_options(anyfp8_flags INTERFACE -fsanitize=${ANYFP8_SANITIZE})
endif()
if(ANYFP8_FUZZ)
  target_compile_options(anyfp8_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
target_link_libraries(anyfp8_flags INTERFACE fmt::fmt nlohmann_json::nlohmann_json
                                             OpenMP::OpenMP_CXX Threads::Threads ${CMAKE_DL_LIBS})

# The thread sanitizer does not see the barriers of libgomp, which is not built with it, and reports every
# parallel loop. LLVM's libomp tells it about them through the Archer tool, if that is found at run time:
# hence clang, libomp-dev and this path. ignore_noninstrumented_modules keeps libomp's own memory out of it.
if(ANYFP8_SANITIZE MATCHES "thread" AND ANYFP8_TESTS)
  get_filename_component(omp_folder "${OpenMP_omp_LIBRARY}" REALPATH)
  get_filename_component(omp_folder "${omp_folder}" DIRECTORY)
  find_library(ANYFP8_ARCHER archer HINTS ${omp_folder})
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang" OR NOT ANYFP8_ARCHER)
    message(FATAL_ERROR "anyfp8: the thread sanitizer needs clang and LLVM's OpenMP with libarcher "
                        "(package libomp-dev); found ${CMAKE_CXX_COMPILER_ID} and ${OpenMP_omp_LIBRARY}")
  endif()
endif()

# Environment of every test. What somebody has tuned on this machine is no part of it.
set(ANYFP8_TEST_ENVIRONMENT ANYFP8_TUNE_CACHE=off)
if(ANYFP8_SANITIZE MATCHES "thread")
  list(APPEND ANYFP8_TEST_ENVIRONMENT OMP_TOOL_LIBRARIES=${ANYFP8_ARCHER} TSAN_OPTIONS=ignore_noninstrumented_modules=1)
elseif(ANYFP8_SANITIZE MATCHES "undefined")
  list(APPEND ANYFP8_TEST_ENVIRONMENT UBSAN_OPTIONS=print_stacktrace=1)
endif()
