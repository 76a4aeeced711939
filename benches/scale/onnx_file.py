"""Writes ONNX files without the onnx package: the few protobuf messages that a benchmark needs.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

ONNX_TYPE = {"F32": 1, "F16": 10, "BF16": 16, "I64": 7}


def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def number(field, value):
    return varint(field << 3) + varint(value)


def blob(field, data):
    if isinstance(data, str):
        data = data.encode()
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor_raw(name, dtype, shape, data):
    dims = b"".join(number(1, d) for d in shape)
    return dims + number(2, ONNX_TYPE[dtype]) + blob(8, name) + blob(9, data)


def tensor_external(name, dtype, shape, location, offset, length):
    entry = lambda key, value: blob(13, blob(1, key) + blob(2, str(value)))
    dims = b"".join(number(1, d) for d in shape)
    place = entry("location", location) + entry("offset", offset) + entry("length", length)
    return dims + number(2, ONNX_TYPE[dtype]) + blob(8, name) + place + number(14, 1)


def int_attribute(name, value):
    return blob(1, name) + number(3, value) + number(20, 2)


def float_attribute(name, value):
    import struct

    return blob(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + number(20, 1)


def node(operator, inputs, outputs, name, attributes=()):
    parts = [blob(1, i) for i in inputs] + [blob(2, o) for o in outputs]
    parts += [blob(3, name), blob(4, operator)]
    parts += [blob(5, a) for a in attributes]
    return b"".join(parts)


def value_info(name, dtype, shape):
    dims = b"".join(blob(1, number(1, d)) for d in shape)
    kind = number(1, ONNX_TYPE[dtype]) + blob(2, dims)
    return blob(1, name) + blob(2, blob(1, kind))


def model(nodes, initializers, inputs, outputs, opset=17):
    graph = b"".join(
        [blob(1, n) for n in nodes]
        + [blob(2, "scale")]
        + [blob(5, t) for t in initializers]
        + [blob(11, i) for i in inputs]
        + [blob(12, o) for o in outputs]
    )
    return number(1, 8) + blob(7, graph) + blob(8, blob(1, "") + number(2, opset))
