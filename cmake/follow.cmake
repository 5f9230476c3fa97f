# Does what docs/adding.md tells its reader to do, so that the page can be built and tested:
#
#   cmake -DINTO=FOLDER -P cmake/follow.cmake
#
# A line that begins with a file's name in backquotes and ends with a colon speaks of the block
# behind it. A `diff` block is an edit of that file, made in a copy of it below FOLDER; another block
# is the file itself, or its next part.
cmake_policy(VERSION 3.25)
if(NOT INTO)
  message(FATAL_ERROR "expected -DINTO=FOLDER")
endif()

cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH source)
set(page docs/adding.md)
file(READ ${source}/${page} text)
file(REMOVE_RECURSE ${INTO})

# Replaces the lines of the block that begin with " " or "-" by those that begin with " " or "+".
function(edit name block)
  set(block "\n${block}")
  string(REGEX REPLACE "\n\\+[^\n]*" "" before "${block}")
  string(REGEX REPLACE "\n[- ]" "\n" before "${before}")
  string(REGEX REPLACE "\n-[^\n]*" "" after "${block}")
  string(REGEX REPLACE "\n[+ ]" "\n" after "${after}")
  if(NOT EXISTS ${INTO}/${name})
    configure_file(${source}/${name} ${INTO}/${name} COPYONLY)
  endif()
  file(READ ${INTO}/${name} content)
  string(REPLACE "\n" "\n  " shown "${before}")
  string(FIND "${content}" "${before}\n" first)
  string(FIND "${content}" "${before}\n" last REVERSE)
  if(first EQUAL -1)
    message(FATAL_ERROR "${page} edits ${name} where it reads\n${shown}\nThe file has no such lines: adapt the page.")
  elseif(NOT first EQUAL last)
    message(FATAL_ERROR "${page} edits ${name} where it reads\n${shown}\nThe file has such lines twice: show more of them on the page.")
  endif()
  string(REPLACE "${before}\n" "${after}\n" content "${content}")
  file(WRITE ${INTO}/${name} "${content}")
endfunction()

while(text MATCHES "\n`([^`\n]+)`[^\n]*:\n\n```([a-z]+)\n")
  set(name ${CMAKE_MATCH_1})
  set(kind ${CMAKE_MATCH_2})
  string(FIND "${text}" "${CMAKE_MATCH_0}" begin)
  string(LENGTH "${CMAKE_MATCH_0}" length)
  math(EXPR begin "${begin} + ${length}")
  string(SUBSTRING "${text}" ${begin} -1 text)
  string(FIND "${text}" "\n```\n" length)
  string(SUBSTRING "${text}" 0 ${length} block)
  string(SUBSTRING "${text}" ${length} -1 text)
  if(kind STREQUAL "diff")
    edit(${name} "${block}")
  elseif(EXISTS ${INTO}/${name})
    file(APPEND ${INTO}/${name} "\n${block}\n")
  else()
    file(WRITE ${INTO}/${name} "${block}\n")
  endif()
endwhile()
