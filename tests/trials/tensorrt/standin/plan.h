// What the stand-in's network, plan and engine are made of, how a plan is written and read, and how a graph is computed.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

using Shape = std::vector<int64_t>;
using Bytes = std::string;

struct Weight {
    std::string name;
    int32_t type = 0; // DataType
    Shape shape;
    Bytes bytes;
    bool there = true;     // false in a stripped plan that is not filled
    bool refittable = true;
    int32_t group = -1;    // weights of one layer are computed together
    uint64_t built = 0;    // hash of the bytes of the build

    int64_t count() const {
        int64_t n = 1;
        for (int64_t d : shape) n *= d;
        return n;
    }
};

struct Port {
    std::string name;
    int32_t type = 0;
    Shape shape; // -1 where dynamic
    std::vector<std::array<Shape, 3>> ranges; // min, opt, max in each profile; of inputs
    bool host = false;
    bool decides_shapes = false;
};

struct Op {
    std::string name, type;
    std::vector<std::string> in, out;
    std::map<std::string, int64_t> attributes;
    std::map<std::string, float> floats;
};

// What a parser made of a BatchNormalization of the model; the op then reads the two results.
struct Normalisation {
    std::vector<std::string> sources; // scale, bias, mean, variance
    float epsilon;
    std::string scale, shift;
};

enum Refit : int32_t { NONE, FULL, IDENTICAL, INDIVIDUAL };

struct Graph {
    std::vector<Port> inputs, outputs;
    std::vector<Weight> weights;
    std::vector<Op> ops;
    std::vector<Normalisation> normalisations; // of a model, not of a plan
    int32_t refit = NONE;
    bool stripped = false;          // built without its weights
    bool excluded = false;          // written without its weights
    bool version_compatible = false;
    bool plugins_inside = false;
    bool streaming = false;         // weights may stay in host memory

    Weight *weight(const std::string &name) {
        for (Weight &w : weights)
            if (w.name == name) return &w;
        return nullptr;
    }
};

inline uint64_t hash(const Bytes &b) {
    uint64_t h = 1469598103934665603ull;
    for (unsigned char c : b) h = (h ^ c) * 1099511628211ull;
    return h;
}

// --- plan bytes ---
struct Out {
    Bytes b;
    void n(int64_t v) { b.append((const char *)&v, 8); }
    void s(const Bytes &t) { n((int64_t)t.size()); b += t; }
    void shape(const Shape &v) { n((int64_t)v.size()); for (int64_t d : v) n(d); }
};
struct In {
    const char *p, *end;
    bool bad = false;
    int64_t n() {
        int64_t v = 0;
        if (end - p < 8) { bad = true; return 0; }
        memcpy(&v, p, 8);
        p += 8;
        return v;
    }
    Bytes s() {
        int64_t k = n();
        if (k < 0 || end - p < k) { bad = true; return {}; }
        p += k;
        return Bytes(p - k, k);
    }
    Shape shape() {
        Shape v;
        for (int64_t k = n(); k > 0 && !bad; k--) v.push_back(n());
        return v;
    }
};

inline void write_port(Out &o, const Port &p) {
    o.s(p.name); o.n(p.type); o.shape(p.shape);
    o.n((int64_t)p.ranges.size());
    for (auto &range : p.ranges) for (const Shape &r : range) o.shape(r);
    o.n(p.host);
}
inline Port read_port(In &i) {
    Port p;
    p.name = i.s(); p.type = (int32_t)i.n(); p.shape = i.shape();
    p.ranges.resize((size_t)std::max<int64_t>(0, std::min<int64_t>(i.n(), 64)));
    for (auto &range : p.ranges) for (Shape &r : range) r = i.shape();
    p.host = i.n();
    return p;
}

// `without`: refittable weights are left out.
inline Bytes write_graph(const Graph &g, bool without) {
    Out o;
    o.n(g.refit); o.n(g.stripped); o.n(without); o.n(g.version_compatible); o.n(g.streaming); o.n(g.plugins_inside);
    o.n((int64_t)g.inputs.size());
    for (const Port &p : g.inputs) write_port(o, p);
    o.n((int64_t)g.outputs.size());
    for (const Port &p : g.outputs) write_port(o, p);
    o.n((int64_t)g.weights.size());
    for (const Weight &w : g.weights) {
        bool there = !(without && w.refittable);
        o.s(w.name); o.n(w.type); o.shape(w.shape); o.n(there); o.s(there ? w.bytes : Bytes());
        o.n(w.refittable); o.n(w.group); o.n((int64_t)w.built);
    }
    o.n((int64_t)g.ops.size());
    for (const Op &op : g.ops) {
        o.s(op.name); o.s(op.type);
        o.n((int64_t)op.in.size());
        for (auto &x : op.in) o.s(x);
        o.n((int64_t)op.out.size());
        for (auto &x : op.out) o.s(x);
        o.n((int64_t)op.attributes.size());
        for (auto &[k, v] : op.attributes) { o.s(k); o.n(v); }
    }
    return o.b;
}
inline bool read_graph(In i, Graph &g) {
    g.refit = (int32_t)i.n(); g.stripped = i.n(); g.excluded = i.n(); g.version_compatible = i.n(); g.streaming = i.n(); g.plugins_inside = i.n();
    for (int64_t k = i.n(); k > 0 && !i.bad; k--) g.inputs.push_back(read_port(i));
    for (int64_t k = i.n(); k > 0 && !i.bad; k--) g.outputs.push_back(read_port(i));
    for (int64_t k = i.n(); k > 0 && !i.bad; k--) {
        Weight w;
        w.name = i.s(); w.type = (int32_t)i.n(); w.shape = i.shape(); w.there = i.n(); w.bytes = i.s();
        w.refittable = i.n(); w.group = (int32_t)i.n(); w.built = (uint64_t)i.n();
        g.weights.push_back(w);
    }
    for (int64_t k = i.n(); k > 0 && !i.bad; k--) {
        Op op;
        op.name = i.s(); op.type = i.s();
        for (int64_t m = i.n(); m > 0 && !i.bad; m--) op.in.push_back(i.s());
        for (int64_t m = i.n(); m > 0 && !i.bad; m--) op.out.push_back(i.s());
        for (int64_t m = i.n(); m > 0 && !i.bad; m--) { Bytes key = i.s(); op.attributes[key] = i.n(); }
        g.ops.push_back(op);
    }
    return !i.bad && i.p == i.end;
}

// --- computing ---
struct Value {
    Shape shape;
    std::vector<float> v;
    bool known = true; // extents are
};

inline float of_half(uint16_t h) {
    int e = h >> 10 & 31, m = h & 1023;
    float f = e == 31 ? (m ? NAN : INFINITY) : e ? std::ldexp(1024.f + m, e - 25) : std::ldexp((float)m, -24);
    return h & 0x8000 ? -f : f;
}

inline float of_bf16(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
// To the nearest value of HALF or BF16, ties to even.
inline float rounded(float f, int32_t type) {
    if (f == 0 || !std::isfinite(f)) return f;
    int bits = type == 1 ? 11 : 8, e;
    std::frexp(f, &e);
    int ulp = std::max(e - bits, type == 1 ? -24 : -133);
    float r = std::ldexp(std::nearbyint(std::ldexp(f, -ulp)), ulp);
    return type == 1 && std::fabs(r) > 65504.f ? std::copysign(INFINITY, r) : r;
}

// Elements of type FLOAT, HALF, BF16, INT32 or INT64 as floats; what is missing is zero, as in a stripped plan that is not filled.
inline Value decode(const Shape &shape, int32_t type, const void *data) {
    Value r{shape, {}};
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    r.v.resize(n);
    for (int64_t i = 0; data && i < n; i++) switch (type) {
        case 0: r.v[i] = ((const float *)data)[i]; break;
        case 1: r.v[i] = of_half(((const uint16_t *)data)[i]); break;
        case 7: r.v[i] = of_bf16(((const uint16_t *)data)[i]); break;
        case 3: r.v[i] = (float)((const int32_t *)data)[i]; break;
        case 8: r.v[i] = (float)((const int64_t *)data)[i]; break;
    }
    return r;
}
inline void encode(const Value &x, int32_t type, void *to) {
    for (size_t i = 0; i < x.v.size(); i++) switch (type) {
        case 0: ((float *)to)[i] = x.v[i]; break;
        case 3: ((int32_t *)to)[i] = (int32_t)x.v[i]; break;
        case 8: ((int64_t *)to)[i] = (int64_t)x.v[i]; break;
    }
}
inline int64_t size_of(int32_t type) {
    switch (type) {
        case 0: case 3: return 4;
        case 1: case 7: return 2;
        case 8: return 8;
        default: return 1;
    }
}

// Twice comes with a library of the user's, which says so in the environment; Halve_TRT with the library's own.
inline bool standard_plugins = false;
inline bool is_plugin(const std::string &type) { return type == "Twice" || type == "Halve_TRT"; }
inline bool has_plugin(const std::string &type) {
    return type == "Twice" ? getenv("STANDIN_PLUGIN") != nullptr : standard_plugins;
}

inline bool knows(const std::string &type) {
    for (const char *k : {"MatMul", "Add", "Mul", "Relu", "Identity", "NonZero", "Shape", "Reshape", "Sin", "Cast", "BatchNormalization"})
        if (type == k) return true;
    return is_plugin(type) && has_plugin(type);
}

// With numpy's rules for shapes that differ.
template <class F> Value broadcast(const Value &a, const Value &b, F f) {
    size_t rank = std::max(a.shape.size(), b.shape.size());
    Value r;
    auto at = [rank](const Shape &s, size_t i) { return i + s.size() < rank ? 1 : s[i + s.size() - rank]; };
    int64_t n = 1;
    for (size_t i = 0; i < rank; i++) { r.shape.push_back(std::max(at(a.shape, i), at(b.shape, i))); n *= r.shape[i]; }
    r.v.resize(n);
    for (int64_t k = 0; k < n; k++) {
        int64_t rest = k, ia = 0, ib = 0, sa = 1, sb = 1;
        for (size_t i = rank; i-- > 0;) {
            int64_t x = rest % r.shape[i];
            rest /= r.shape[i];
            if (at(a.shape, i) != 1) ia += x * sa;
            if (at(b.shape, i) != 1) ib += x * sb;
            sa *= at(a.shape, i); sb *= at(b.shape, i);
        }
        r.v[k] = f(a.v[ia], b.v[ib]);
    }
    return r;
}

inline Value evaluate(const Op &op, const std::vector<Value> &x) {
    Value r;
    if (op.type == "MatMul") {
        int64_t k = x[0].shape.back(), n = x[1].shape[1], m = (int64_t)x[0].v.size() / std::max<int64_t>(k, 1);
        r.shape = x[0].shape;
        r.shape.back() = n;
        r.v.assign(m * n, 0);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t l = 0; l < k; l++) sum += (double)x[0].v[i * k + l] * x[1].v[l * n + j];
                r.v[i * n + j] = (float)sum;
            }
        return r;
    }
    if (op.type == "Add") return broadcast(x[0], x[1], [](float a, float b) { return a + b; });
    if (op.type == "Mul") return broadcast(x[0], x[1], [](float a, float b) { return a * b; });
    if (op.type == "NonZero") {
        std::vector<int64_t> found;
        for (size_t i = 0; i < x[0].v.size(); i++)
            if (x[0].v[i] != 0) found.push_back((int64_t)i);
        size_t rank = x[0].shape.size();
        r.shape = {(int64_t)rank, (int64_t)found.size()};
        r.v.resize(rank * found.size());
        for (size_t j = 0; j < found.size(); j++) {
            int64_t rest = found[j];
            for (size_t i = rank; i-- > 0;) { r.v[i * found.size() + j] = (float)(rest % x[0].shape[i]); rest /= x[0].shape[i]; }
        }
        r.known = false;
        return r;
    }
    if (op.type == "Shape") {
        r.shape = {(int64_t)x[0].shape.size()};
        for (int64_t d : x[0].shape) r.v.push_back((float)d);
        return r;
    }
    if (op.type == "Reshape") {
        r = x[0];
        r.shape.clear();
        for (float d : x[1].v) r.shape.push_back((int64_t)d);
        return r;
    }
    r = x[0];
    if (op.type == "BatchNormalization") { // over axis 1, with the parser's scale and shift
        int64_t inner = 1;
        for (size_t i = 2; i < r.shape.size(); i++) inner *= r.shape[i];
        for (size_t i = 0; i < r.v.size(); i++) {
            size_t c = i / inner % r.shape[1];
            r.v[i] = r.v[i] * x[1].v[c] + x[2].v[c];
        }
    }
    if (op.type == "Cast") {
        int64_t to = op.attributes.at("to");
        if (to == 10 || to == 16) for (float &v : r.v) v = rounded(v, to == 10 ? 1 : 7);
    }
    if (op.type == "Relu") for (float &v : r.v) v = v < 0 ? 0 : v;
    if (op.type == "Twice") for (float &v : r.v) v *= 2;
    if (op.type == "Halve_TRT") for (float &v : r.v) v /= 2;
    if (op.type == "Sin") for (float &v : r.v) v = std::sin(v);
    return r;
}

// All values of the graph by name, from those of its inputs.
inline std::map<std::string, Value> compute(const Graph &g, std::map<std::string, Value> values) {
    for (const Weight &w : g.weights) values[w.name] = decode(w.shape, w.type, w.there ? w.bytes.data() : nullptr);
    for (const Op &op : g.ops) {
        std::vector<Value> x;
        bool known = true;
        for (auto &name : op.in) { x.push_back(values[name]); known = known && values[name].known; }
        Value r = evaluate(op, x);
        if (!known) r.known = false;
        values[op.out[0]] = r;
    }
    return values;
}
