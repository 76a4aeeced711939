// As much of an ONNX reader as the stand-in's parser needs: the wire format, and the fields of a graph.
#pragma once
#include "plan.h"
#include <fstream>
#include <sstream>

struct Wire {
    const unsigned char *p, *end;
    uint32_t field = 0, kind = 0;
    uint64_t number = 0;
    float single = 0;
    const unsigned char *sub = nullptr, *sub_end = nullptr;

    uint64_t varint() {
        uint64_t v = 0;
        for (int shift = 0; p < end; shift += 7) {
            unsigned char c = *p++;
            v |= (uint64_t)(c & 127) << shift;
            if (!(c & 128)) break;
        }
        return v;
    }
    bool next() {
        if (p >= end) return false;
        uint64_t key = varint();
        field = key >> 3; kind = key & 7;
        if (kind == 0) number = varint();
        else if (kind == 2) { uint64_t n = varint(); sub = p; sub_end = p += std::min<uint64_t>(n, end - p); }
        else {
            if (kind == 5 && end - p >= 4) memcpy(&single, p, 4);
            p += kind == 1 ? 8 : 4;
        }
        return true;
    }
    Wire inside() const { return {sub, sub_end}; }
    std::string text() const { return {(const char *)sub, (size_t)(sub_end - sub)}; }
};

// onnx.TensorProto.DataType -> nvinfer1::DataType
inline int32_t type_of(uint64_t onnx, bool has_int64) {
    switch (onnx) {
        case 1: return 0;
        case 10: return 1;
        case 3: return 2;
        case 6: return 3;
        case 9: return 4;
        case 16: return 7;
        case 7: return has_int64 ? 8 : 3;
        default: return -1;
    }
}

inline Weight read_tensor(Wire w, bool has_int64) {
    Weight t;
    uint64_t onnx = 0;
    while (w.next()) {
        if (w.field == 1 && w.kind == 0) t.shape.push_back((int64_t)w.number);
        else if (w.field == 1) { Wire d = w.inside(); while (d.p < d.end) t.shape.push_back((int64_t)d.varint()); }
        else if (w.field == 2) onnx = w.number;
        else if (w.field == 4 || w.field == 9) t.bytes = w.text(); // float_data (packed), raw_data
        else if (w.field == 8) t.name = w.text();
    }
    t.type = type_of(onnx, has_int64);
    if (onnx == 7 && !has_int64) { // before TensorRT 10 whole numbers have 32 bits
        Bytes narrow;
        for (size_t i = 0; i + 8 <= t.bytes.size(); i += 8) narrow += t.bytes.substr(i, 4);
        t.bytes = narrow;
    }
    return t;
}

inline Port read_value(Wire w, bool has_int64) {
    Port port;
    while (w.next()) {
        if (w.field == 1) port.name = w.text();
        if (w.field != 2) continue;
        Wire type = w.inside();
        while (type.next()) {
            if (type.field != 1) continue;
            Wire tensor = type.inside();
            while (tensor.next()) {
                if (tensor.field == 1) port.type = type_of(tensor.number, has_int64);
                if (tensor.field != 2) continue;
                Wire shape = tensor.inside();
                while (shape.next()) {
                    Wire dim = shape.inside();
                    int64_t extent = -1;
                    while (dim.next()) if (dim.field == 1) extent = (int64_t)dim.number;
                    port.shape.push_back(extent);
                }
            }
        }
    }
    return port;
}

// As the parser does: the four tensors of a BatchNormalization become two weights that it names by counting. What nothing else reads
// is gone.
inline void fold_normalisations(Graph &g) {
    int n = 0;
    auto read = [&](const std::string &name) {
        for (Op &op : g.ops) for (auto &x : op.in) if (x == name) return true;
        return false;
    };
    for (Op &op : g.ops) {
        if (op.type != "BatchNormalization" || op.in.size() != 5) continue;
        bool constant = true;
        for (size_t i = 1; i < 5; i++) constant = constant && g.weight(op.in[i]) && g.weight(op.in[i])->type == 0;
        if (!constant) continue;
        Normalisation made{{op.in.begin() + 1, op.in.end()}, op.floats.count("epsilon") ? op.floats["epsilon"] : 1e-5f, "", ""};
        Value v[4];
        for (int i = 0; i < 4; i++) v[i] = decode(g.weight(op.in[i + 1])->shape, 0, g.weight(op.in[i + 1])->bytes.data());
        for (int k = 0; k < 2; k++) {
            Weight w;
            w.name = "tmp_batch_norm_weight" + (n ? "_" + std::to_string(n) : "");
            w.shape = v[0].shape;
            for (size_t i = 0; i < v[0].v.size(); i++) {
                float scale = v[0].v[i] / std::sqrt(v[3].v[i] + made.epsilon), value = k ? v[1].v[i] - v[2].v[i] * scale : scale;
                w.bytes.append((const char *)&value, 4);
            }
            g.weights.push_back(w);
            (k ? made.shift : made.scale) = w.name;
            n++;
        }
        op.in = {op.in[0], made.scale, made.shift};
        g.normalisations.push_back(made);
    }
    std::vector<Weight> kept;
    for (Weight &w : g.weights) {
        bool folded = false;
        for (auto &made : g.normalisations) for (auto &s : made.sources) folded = folded || s == w.name;
        if (!folded || read(w.name)) kept.push_back(w);
    }
    g.weights = kept;
}

// Fills `g`; the index of the first node that is not known, or -1.
inline int read_model(const Bytes &bytes, Graph &g, bool has_int64) {
    const unsigned char *b = (const unsigned char *)bytes.data();
    Wire model{b, b + bytes.size()};
    int unknown = -1;
    while (model.next()) {
        if (model.field != 7) continue;
        Wire graph = model.inside();
        while (graph.next()) {
            if (graph.field == 5) g.weights.push_back(read_tensor(graph.inside(), has_int64));
            if (graph.field == 11) g.inputs.push_back(read_value(graph.inside(), has_int64));
            if (graph.field == 12) g.outputs.push_back(read_value(graph.inside(), has_int64));
            if (graph.field != 1) continue;
            Op op;
            Wire node = graph.inside();
            while (node.next()) {
                if (node.field == 1) op.in.push_back(node.text());
                if (node.field == 2) op.out.push_back(node.text());
                if (node.field == 3) op.name = node.text();
                if (node.field == 4) op.type = node.text();
                if (node.field != 5) continue;
                std::string name;
                Wire attribute = node.inside();
                while (attribute.next()) {
                    if (attribute.field == 1) name = attribute.text();
                    if (attribute.field == 2) op.floats[name] = attribute.single;
                    if (attribute.field == 3) op.attributes[name] = (int64_t)attribute.number;
                }
            }
            if (!knows(op.type) && unknown < 0) unknown = (int)g.ops.size();
            g.ops.push_back(op);
        }
    }
    // An initializer may be listed as an input too.
    std::vector<Port> inputs;
    for (Port &i : g.inputs) if (!g.weight(i.name)) inputs.push_back(i);
    g.inputs = inputs;
    fold_normalisations(g);
    for (Weight &w : g.weights) { w.built = hash(w.bytes); w.refittable = w.type == 0 || w.type == 1 || w.type == 7; }
    // Both operands have one type: nothing is cast unasked.
    std::map<std::string, int32_t> types;
    for (Weight &w : g.weights) types[w.name] = w.type;
    for (Port &i : g.inputs) types[i.name] = i.type;
    for (size_t i = 0; i < g.ops.size(); i++) {
        Op &op = g.ops[i];
        if (op.in.empty() || op.out.empty()) continue;
        types[op.out[0]] = op.type == "Cast" ? type_of(op.attributes["to"], has_int64) : types[op.in[0]];
        bool two = op.type == "MatMul" || op.type == "Add" || op.type == "Mul";
        if (two && types[op.in[0]] != types[op.in[1]] && unknown < 0) unknown = (int)i;
    }
    // A product and the sum with its bias are one layer.
    int group = 0;
    for (Op &op : g.ops) {
        if (op.type != "MatMul" || !g.weight(op.in[1])) continue;
        g.weight(op.in[1])->group = ++group;
        for (Op &sum : g.ops) {
            if (sum.type != "Add") continue;
            for (int i : {0, 1})
                if (sum.in[i] == op.out[0] && g.weight(sum.in[1 - i])) g.weight(sum.in[1 - i])->group = group;
        }
    }
    // So are the results of a normalisation, and the product that it reads.
    for (Op &op : g.ops) {
        if (op.type != "BatchNormalization" || op.in.size() != 3) continue;
        int layer = ++group;
        for (Op &product : g.ops)
            if (product.type == "MatMul" && product.out[0] == op.in[0] && g.weight(product.in[1])) layer = g.weight(product.in[1])->group;
        for (int i : {1, 2}) g.weight(op.in[i])->group = layer;
    }
    for (Op &op : g.ops) {
        if (op.type == "Reshape") for (Port &i : g.inputs) if (i.name == op.in[1]) i.decides_shapes = true;
        if (op.type == "Shape") for (Port &o : g.outputs) if (o.name == op.out[0]) o.host = true;
        if (op.type == "NonZero" || op.type == "Shape")
            for (Port &o : g.outputs) if (o.name == op.out[0]) o.type = has_int64 ? 8 : 3;
    }
    return unknown;
}
