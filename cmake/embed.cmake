# Files as one C source, so that what the program writes and what lies in the tree are the same bytes:
#   cmake -D OUT=texts.c -D "FILES=examples/a-b.yaml;..." -P embed.cmake     const char text_a_b[] = {...};
set(source "/* Made by cmake/embed.cmake. */\n")
foreach(file IN LISTS FILES)
  get_filename_component(name ${file} NAME_WE)
  string(MAKE_C_IDENTIFIER ${name} name)
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  string(APPEND source "extern const char text_${name}[];\nconst char text_${name}[] = {${bytes}0};\n")
endforeach()
file(WRITE ${OUT} "${source}")
