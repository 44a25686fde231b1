if(ANYFP8_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

set(ANYFP8_OBJECTS "" CACHE INTERNAL "object libraries so far, in include order")

# anyfp8_folder(name): anyfp8/<name>/**.cpp as the object library anyfp8_<name>, *_test.cpp as the test program
# <name>_test, each *_fuzz.cpp as a libFuzzer program; *.cu and *_cuda.cpp in a CUDA build alone.
function(anyfp8_folder name)
  set(folder ${PROJECT_SOURCE_DIR}/anyfp8/${name})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*.cpp)
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  set(fuzzers ${sources})
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz|module)\\.cpp$")
  if(ANYFP8_CUDA)
    file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${folder}/*.cu)
    anyfp8_cuda_code(${cuda_sources})
    list(APPEND sources ${cuda_sources})
  else()
    list(FILTER sources EXCLUDE REGEX "_cuda\\.cpp$")
  endif()

  add_library(anyfp8_${name} OBJECT ${sources})
  target_link_libraries(anyfp8_${name} PUBLIC anyfp8_flags)
  set(objects ${ANYFP8_OBJECTS} anyfp8_${name})
  set(ANYFP8_OBJECTS ${objects} CACHE INTERNAL "")

  if(ANYFP8_TESTS AND tests)
    anyfp8_test(${name}_test ${tests})
  endif()
  if(ANYFP8_FUZZ)
    foreach(source ${fuzzers})
      get_filename_component(target ${source} NAME_WE)
      add_executable(${target} ${source})
      target_link_libraries(${target} PRIVATE ${objects} -fsanitize=fuzzer)
    endforeach()
  endif()
endfunction()

# Machine code and PTX of CUDA sources. A file whose name ends in _sm75, _sm80 or _sm90 is for the cards from that
# capability on whose blocks have the shared memory (12.0 has that of 8.x); _sm90a is code of Hopper alone, _sm89 of
# cards that convert to FP8, which Ada cannot do with code for 8.0; other files are for every card. PTX is compiled when it is loaded, by cards that have no machine code of their major number here.
function(anyfp8_cuda_code)
  foreach(source ${ARGN})
    if(source MATCHES "_sm90a\\.cu$")
      set(code -gencode arch=compute_90a,code=sm_90a)
    elseif(source MATCHES "_sm89\\.cu$")
      set(code -gencode arch=compute_89,code=sm_89 -gencode arch=compute_90,code=[sm_90,compute_90]
               -gencode arch=compute_100,code=sm_100 -gencode arch=compute_120,code=sm_120)
    else()
      set(code "")
      foreach(family "75" "80;120" "90;100")
        list(GET family 0 first)
        if(NOT source MATCHES "_sm[0-9]+\\.cu$" OR source MATCHES "_sm${first}\\.cu$")
          list(APPEND code -gencode arch=compute_${first},code=[sm_${first},compute_${first}])
          list(REMOVE_AT family 0)
          foreach(card ${family})
            list(APPEND code -gencode arch=compute_${card},code=sm_${card})
          endforeach()
        endif()
      endforeach()
    endif()
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${code}")
  endforeach()
endfunction()

# A GoogleTest program over the folders declared so far; every TEST is a ctest case.
function(anyfp8_test name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE ${ANYFP8_OBJECTS} GTest::gtest GTest::gtest_main)
  # What is tested is optimised in full; optimising the tests too would be a third of the build's time.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  anyfp8_discover(${name})
endfunction()

function(anyfp8_discover name)
  target_compile_definitions(${name} PRIVATE ANYFP8_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                                             ANYFP8_BUILD_DIR="${PROJECT_BINARY_DIR}")
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                       PROPERTIES TIMEOUT 300 ENVIRONMENT "${ANYFP8_TEST_ENVIRONMENT}")
endfunction()

# A test that runs a program or script. Not gtest_discover, so the test's name is what is given here.
function(anyfp8_command_test name)
  add_test(NAME ${name} COMMAND ${ARGN})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300 ENVIRONMENT "${ANYFP8_TEST_ENVIRONMENT}")
endfunction()

# The shared library: every folder but model/, and the C ABI.
function(anyfp8_library)
  set(objects ${ANYFP8_OBJECTS})
  list(REMOVE_ITEM objects anyfp8_model)
  set(sources c_api.cpp c_api_arguments.cpp c_api_json.cpp c_api_parallel.cpp)
  list(TRANSFORM sources PREPEND ${PROJECT_SOURCE_DIR}/anyfp8/)
  add_library(anyfp8 SHARED ${sources})
  add_library(anyfp8::anyfp8 ALIAS anyfp8)
  target_link_libraries(anyfp8 PRIVATE ${objects})
  target_compile_features(anyfp8 PUBLIC cxx_std_20)
  # ANYFP8_API marks what is exported; the script takes out what the C++ library instantiates beside it, whose
  # symbols are visible by its own decision.
  set(script ${PROJECT_SOURCE_DIR}/cmake/exports.map)
  target_link_options(anyfp8 PRIVATE -Wl,--version-script=${script})
  set_target_properties(anyfp8 PROPERTIES VERSION ${PROJECT_VERSION} LINK_DEPENDS ${script}
                                          SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
                                          LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
endfunction()

# libanyfp8_mpi.so beside the library: the one file that includes mpi.h, opened when a program was launched by mpirun.
# A wheel has none, since it would run with one MPI alone.
function(anyfp8_mpi_module)
  if(CMAKE_CROSSCOMPILING OR SKBUILD)
    return()
  endif()
  find_package(MPI COMPONENTS CXX)
  if(NOT MPI_CXX_FOUND)
    message(STATUS "anyfp8: no MPI (Debian: libopenmpi-dev), so no libanyfp8_mpi.so: ranks on CPUs will say so")
    return()
  endif()
  add_library(anyfp8_mpi MODULE ${PROJECT_SOURCE_DIR}/anyfp8/parallel/mpi_module.cpp)
  target_include_directories(anyfp8_mpi PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(anyfp8_mpi PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  target_link_libraries(anyfp8_mpi PRIVATE MPI::MPI_CXX)
  set_target_properties(anyfp8_mpi PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
endfunction()

# The program build/anyfp8, self-contained. Its symbols are exported for plugins.
function(anyfp8_cli)
  if(NOT ANYFP8_CLI)
    return()
  endif()
  find_package(CLI11 REQUIRED)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cli/*.cpp)
  if(ANYFP8_CUDA)
    file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cli/*.cu)
    anyfp8_cuda_code(${cuda_sources})
    list(APPEND sources ${cuda_sources})
  else()
    list(FILTER sources EXCLUDE REGEX "_cuda\\.cpp$")
  endif()
  add_executable(anyfp8_cli ${sources})
  target_link_libraries(anyfp8_cli PRIVATE ${ANYFP8_OBJECTS} CLI11::CLI11)
  set_target_properties(anyfp8_cli PROPERTIES OUTPUT_NAME anyfp8 ENABLE_EXPORTS ON
                                              RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
  if(ANYFP8_BENCH_PEERS)
    anyfp8_bench_peers(anyfp8_cli)
  endif()
endfunction()

# What `anyfp8 bench --peers` measures beside. OpenBLAS's OpenMP variant is looked for first: it shares its
# threads with everything else in the program.
function(anyfp8_bench_peers target)
  find_path(ANYFP8_ONEDNN_INCLUDE oneapi/dnnl/dnnl.hpp)
  find_library(ANYFP8_ONEDNN_LIBRARY dnnl)
  find_path(ANYFP8_OPENBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas-openmp openblas openblas-pthread)
  find_library(ANYFP8_OPENBLAS_LIBRARY openblas PATH_SUFFIXES openblas-openmp openblas openblas-pthread)
  if(NOT ANYFP8_ONEDNN_INCLUDE OR NOT ANYFP8_ONEDNN_LIBRARY OR NOT ANYFP8_OPENBLAS_INCLUDE
     OR NOT ANYFP8_OPENBLAS_LIBRARY)
    message(FATAL_ERROR "anyfp8: ANYFP8_BENCH_PEERS needs oneDNN and OpenBLAS (packages libdnnl-dev and "
                        "libopenblas-openmp-dev); found ${ANYFP8_ONEDNN_LIBRARY} and ${ANYFP8_OPENBLAS_LIBRARY}")
  endif()
  target_compile_definitions(${target} PRIVATE ANYFP8_HAVE_BENCH_PEERS)
  target_include_directories(${target} SYSTEM PRIVATE ${ANYFP8_ONEDNN_INCLUDE} ${ANYFP8_OPENBLAS_INCLUDE})
  target_link_libraries(${target} PRIVATE ${ANYFP8_ONEDNN_LIBRARY} ${ANYFP8_OPENBLAS_LIBRARY})
endfunction()
