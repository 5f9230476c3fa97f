# What clang needs to build the parts that read files, and the targets of tests/fuzz.

# Sources that no target needs: building is most of what a short run takes.
string(APPEND left_out "|/core/(append_file|table)\\.cpp"
       "|/model/(convert|pth_writer|tensor_writer)\\.cpp|/text/(corpus|packed|prepare|train_tokenizer)\\.cpp")

# OpenMP means nothing here: fuzz targets have one thread. Warnings are left to g++. omp.h is the
# compiler's own, which clang does not find by itself.
execute_process(COMMAND g++ -print-file-name=include/omp.h OUTPUT_VARIABLE omp_h
                OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/omp)
file(CREATE_LINK ${omp_h} ${CMAKE_BINARY_DIR}/omp/omp.h SYMBOLIC)
add_library(OpenMP::OpenMP_CXX INTERFACE IMPORTED)
target_include_directories(OpenMP::OpenMP_CXX INTERFACE ${CMAKE_BINARY_DIR}/omp)
target_compile_options(OpenMP::OpenMP_CXX INTERFACE -w)
target_link_libraries(OpenMP::OpenMP_CXX INTERFACE gomp)

# The kernels are written with vector extensions of g++ that clang lacks. No file reaches them, but
# layers refer to them, so they are those of the release build.
add_library(samba_kernels STATIC IMPORTED)
set_target_properties(samba_kernels PROPERTIES IMPORTED_LOCATION
                      ${CMAKE_SOURCE_DIR}/build/release/libsamba_kernels.a)
target_link_libraries(samba_kernels INTERFACE samba_core)

# A source of tests/fuzz is a target, but for seeds.cpp: that writes the files to begin with.
function(samba_fuzz_targets)
  file(GLOB support CONFIGURE_DEPENDS tests/fuzz/support/*.cpp)
  file(GLOB targets CONFIGURE_DEPENDS tests/fuzz/*.cpp)
  # What is tested is compiled with the sanitizers, the tests are not.
  set_source_files_properties(${support} ${targets} PROPERTIES COMPILE_OPTIONS -fno-sanitize=all)
  add_library(samba_fuzz_support OBJECT ${support})
  target_include_directories(samba_fuzz_support PUBLIC tests/fuzz)
  target_link_libraries(samba_fuzz_support PUBLIC samba_model samba_text)
  target_link_options(samba_fuzz_support PUBLIC -Wl,--wrap=mmap)
  foreach(source ${targets})
    cmake_path(GET source STEM name)
    add_executable(fuzz_${name} ${source})
    if(name STREQUAL "seeds")
      target_link_libraries(fuzz_seeds PRIVATE samba_model)
      target_include_directories(fuzz_seeds PRIVATE tests)
      target_compile_definitions(fuzz_seeds PRIVATE SAMBA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    else()
      target_link_libraries(fuzz_${name} PRIVATE samba_fuzz_support)
      target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    endif()
  endforeach()
endfunction()
