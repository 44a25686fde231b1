# Where a cross build finds packages. Debian has no cross versions of them, and a second architecture in apt
# needs every package of the first at its own version, and on Ubuntu another server. But fmt, nlohmann_json and
# CLI11 can be used as headers, and those of the build machine serve every CPU. They are reached through links,
# since /usr/include as a whole would bring that machine's C library. GoogleTest comes as source.
set(anyfp8_headers ${CMAKE_BINARY_DIR}/headers)

function(anyfp8_header_package target folder)
  if(NOT EXISTS /usr/include/${folder})
    message(FATAL_ERROR "anyfp8: /usr/include/${folder} is missing; ./dev setup installs it")
  endif()
  file(MAKE_DIRECTORY ${anyfp8_headers})
  file(CREATE_LINK /usr/include/${folder} ${anyfp8_headers}/${folder} SYMBOLIC)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE ${anyfp8_headers})
endfunction()

# fmt's headers can define everything, which doubles the time to compile a file. So one file does, as a library.
function(anyfp8_fmt)
  anyfp8_header_package(fmt::fmt fmt)
  file(WRITE ${CMAKE_BINARY_DIR}/fmt.cpp "#include <fmt/format.h>\n")
  add_library(anyfp8_fmt OBJECT ${CMAKE_BINARY_DIR}/fmt.cpp)
  target_include_directories(anyfp8_fmt SYSTEM PRIVATE ${anyfp8_headers})
  target_compile_definitions(anyfp8_fmt PRIVATE FMT_HEADER_ONLY)
  target_compile_options(anyfp8_fmt PRIVATE -O1 -fkeep-inline-functions)
  target_link_libraries(fmt::fmt INTERFACE $<TARGET_OBJECTS:anyfp8_fmt>)
endfunction()

function(anyfp8_googletest)
  set(BUILD_GMOCK OFF)
  add_subdirectory(/usr/src/googletest ${CMAKE_BINARY_DIR}/googletest EXCLUDE_FROM_ALL)
  # GCC 12 warns of its own std::string there.
  target_compile_options(gtest PRIVATE -O1 -w)
endfunction()

macro(anyfp8_provide method package)
  set(${package}_FOUND TRUE)
  if("${package}" STREQUAL fmt)
    anyfp8_fmt()
  elseif("${package}" STREQUAL nlohmann_json)
    anyfp8_header_package(nlohmann_json::nlohmann_json nlohmann)
  elseif("${package}" STREQUAL CLI11)
    anyfp8_header_package(CLI11::CLI11 CLI)
  elseif("${package}" STREQUAL GTest)
    anyfp8_googletest()
  else()
    unset(${package}_FOUND)  # found, or not, as usual
  endif()
endmacro()
cmake_language(SET_DEPENDENCY_PROVIDER anyfp8_provide SUPPORTED_METHODS FIND_PACKAGE)
