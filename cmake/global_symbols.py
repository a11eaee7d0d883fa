"""global_symbols.py FILE.o: symbols that are unique in a process become ordinary global ones, which objcopy can hide."""
import struct
import sys

with open(sys.argv[1], "r+b") as file:
    data = bytearray(file.read())
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    for header in range(table, table + size * count, size):
        kind, _, _, begin, length = struct.unpack_from("<IQQQQ", data, header + 4)
        for symbol in range(begin, begin + length, 24) if kind == 2 else ():  # SHT_SYMTAB
            if data[symbol + 4] >> 4 == 10:  # STB_GNU_UNIQUE
                data[symbol + 4] = 1 << 4 | data[symbol + 4] & 15
    file.seek(0)
    file.write(data)
