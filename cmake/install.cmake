include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The public headers: anyfp8.h and c_api.h, and what these include. They need nothing but the C++ library
# (tests/consumer_test.sh holds them to it).
target_sources(anyfp8 PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES
  anyfp8/anyfp8.h
  anyfp8/base/dtype.h
  anyfp8/base/error.h
  anyfp8/base/export.h
  anyfp8/base/float8.h
  anyfp8/base/log.h
  anyfp8/base/tensor.h
  anyfp8/base/threads.h
  anyfp8/base/verdict.h
  anyfp8/c_api.h
  anyfp8/checkpoint/checkpoint.h
  anyfp8/checkpoint/writer.h
  anyfp8/device/device.h
  anyfp8/device/side_stream.h
  anyfp8/kernels/kernel.h
  anyfp8/kernels/plugin.h
  anyfp8/kernels/select.h
  anyfp8/kernels/tune_table.h
  anyfp8/linear/linear.h
  anyfp8/linear/workspace.h
  anyfp8/parallel/comm.h
  anyfp8/parallel/parallel_linear.h
  anyfp8/scheme/format.h
  anyfp8/scheme/fp8_weight.h
  anyfp8/scheme/merge.h
  anyfp8/scheme/quant_scheme.h
  anyfp8/scheme/quantize.h
  anyfp8/scheme/shard.h)

install(TARGETS anyfp8 EXPORT anyfp8Targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET anyfp8_mpi)
  install(TARGETS anyfp8_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
if(ANYFP8_CLI)
  install(TARGETS anyfp8_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# A wheel holds this alone, beside the modules (pyproject.toml). Wheels know no symbolic links, hence one name. libgomp
# goes along for machines without it, under its own name: a process that has torch has one OpenMP for both.
if(SKBUILD)
  set_target_properties(anyfp8 PROPERTIES BUILD_WITH_INSTALL_RPATH ON)
  install(FILES $<TARGET_FILE:anyfp8> DESTINATION anyfp8 RENAME libanyfp8.so COMPONENT python)
  if(OpenMP_gomp_LIBRARY)
    file(REAL_PATH ${OpenMP_gomp_LIBRARY} gomp)
    install(FILES ${gomp} DESTINATION anyfp8 RENAME libgomp.so.1 COMPONENT python)
  endif()
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/anyfp8)
install(EXPORT anyfp8Targets NAMESPACE anyfp8:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/anyfp8Config.cmake.in ${PROJECT_BINARY_DIR}/anyfp8Config.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the C++ API.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/anyfp8ConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/anyfp8Config.cmake ${PROJECT_BINARY_DIR}/anyfp8ConfigVersion.cmake
  DESTINATION ${package_dir})

# anyfp8.pc finds its prefix from its own place, so that an installation can be moved, and `cmake --install
# --prefix` works.
cmake_path(SET pc_dir NORMALIZE "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig")
file(RELATIVE_PATH pc_to_prefix ${pc_dir} ${CMAKE_INSTALL_PREFIX})
file(RELATIVE_PATH pc_to_libdir ${pc_dir} ${CMAKE_INSTALL_FULL_LIBDIR})
file(RELATIVE_PATH pc_to_includedir ${pc_dir} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(${CMAKE_CURRENT_LIST_DIR}/anyfp8.pc.in ${PROJECT_BINARY_DIR}/anyfp8.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/anyfp8.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
