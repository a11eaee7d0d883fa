# Third-party libraries (docs/dependencies.md says why each). All come from Debian packages.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(fmt REQUIRED)

# Debian has no libfmt.a, so the static form is the header-only one.
add_library(engram_dep_fmt INTERFACE)
add_library(engram::fmt ALIAS engram_dep_fmt)
if(ENGRAM_STATIC_DEPS)
  target_link_libraries(engram_dep_fmt INTERFACE fmt::fmt-header-only)
else()
  target_link_libraries(engram_dep_fmt INTERFACE fmt::fmt)
endif()

# engram_pkg(NAME module [ARCHIVE]): imported target engram::NAME from pkg-config's module; where an archive is named
# and ENGRAM_STATIC_DEPS is on, the archive instead of the shared library.
function(engram_pkg name module)
  pkg_check_modules(${name} IMPORTED_TARGET ${module})
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "the library ${module} is missing: run scripts/setup.sh, which installs Debian's package of it")
  endif()
  if(ENGRAM_STATIC_DEPS AND ARGC GREATER 2)
    find_library(${name}_archive ${ARGV2} REQUIRED)
    add_library(engram_dep_${name} INTERFACE)
    target_include_directories(engram_dep_${name} SYSTEM INTERFACE ${${name}_INCLUDE_DIRS})
    target_link_libraries(engram_dep_${name} INTERFACE ${${name}_archive})
    add_library(engram::${name} ALIAS engram_dep_${name})
  else()
    add_library(engram::${name} ALIAS PkgConfig::${name})
  endif()
endfunction()
engram_pkg(utf8proc libutf8proc libutf8proc.a)
engram_pkg(pcre2 libpcre2-8 libpcre2-8.a)
engram_pkg(onig oniguruma)  # as libhwy below
engram_pkg(zstd libzstd libzstd.a)
engram_pkg(zlib zlib libz.a)
if(NOT ENGRAM_PORTABLE)
  engram_pkg(uring liburing liburing.a)
endif()
engram_pkg(hwy libhwy)  # Debian ships only the shared library (39 KB, libonig has 614): scripts/bundle.sh carries it along
find_package(tomlplusplus REQUIRED)
# Header-only and without exceptions, whatever the system's package was built as.
add_library(engram_dep_toml INTERFACE)
add_library(engram::toml ALIAS engram_dep_toml)
target_include_directories(engram_dep_toml SYSTEM INTERFACE
  $<TARGET_PROPERTY:tomlplusplus::tomlplusplus,INTERFACE_INCLUDE_DIRECTORIES>)
target_compile_definitions(engram_dep_toml INTERFACE TOML_HEADER_ONLY=1 TOML_EXCEPTIONS=0 TOML_ENABLE_FORMATTERS=0)
find_package(CLI11 REQUIRED)
find_package(Boost 1.74 REQUIRED)  # headers only: Asio and Beast
add_library(engram_dep_boost INTERFACE)
add_library(engram::boost ALIAS engram_dep_boost)
target_link_libraries(engram_dep_boost INTERFACE Boost::headers Threads::Threads)
# The log of a server, header-only and over our fmt: the library that Debian ships would bring its own form of it.
find_package(spdlog 1.10 REQUIRED)
add_library(engram_dep_spdlog INTERFACE)
add_library(engram::spdlog ALIAS engram_dep_spdlog)
target_include_directories(engram_dep_spdlog SYSTEM INTERFACE
  $<TARGET_PROPERTY:spdlog::spdlog_header_only,INTERFACE_INCLUDE_DIRECTORIES>)
target_compile_definitions(engram_dep_spdlog INTERFACE SPDLOG_FMT_EXTERNAL)
target_link_libraries(engram_dep_spdlog INTERFACE engram::fmt Threads::Threads)
if(ENGRAM_STATIC_DEPS)
  add_compile_definitions(PCRE2_STATIC UTF8PROC_STATIC)
endif()
if(ENGRAM_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
