// A TensorRT whose classes are declared as the headers of one release declare them (interface.h, written by the test from the
// recorded signatures), so that the compiler lays out the vtables. Behind them is what headers and samples say of plans, refits
// and serialization. What is called and not implemented here ends the process and names itself; so does a broken rule.
#include "interface.h"
#include "onnx.h"
#include <dlfcn.h>
#include <memory>
#include <set>
#include <thread>

#define EXPORT extern "C" __attribute__((visibility("default")))

#ifdef WIDE
using Number = int64_t;
constexpr bool TYPES_ARE_CHECKED = true;
#else
using Number = int32_t;
constexpr bool TYPES_ARE_CHECKED = false;
#endif
#ifdef HAS_DataType_kINT64
constexpr bool INT64 = true;
#else
constexpr bool INT64 = false;
#endif

static const char *env(const char *name) { const char *v = getenv(name); return v ? v : ""; }

// --- what the tests ask and set; one test is one thread, and several run in one process ---
static thread_local std::string fault_here;
static thread_local int live_here, pinned_here;
EXPORT void standin_set_fault(const char *name) { fault_here = name; }
EXPORT int standin_live() { return live_here; }
EXPORT int standin_pinned() { return pinned_here; }
static bool fault(const char *name) { return fault_here == name || !strcmp(env("STANDIN_FAULT"), name); }

static void note(const std::string &line) {
    if (FILE *f = fopen(env("STANDIN_CALLS"), "a")) { fprintf(f, "%s\n", line.c_str()); fclose(f); }
}
static void called(const char *cls, const char *method) {
    static std::set<std::string> seen; // of a process that runs one command, on one thread unless it says so
    if (!*env("STANDIN_CALLS")) return;
    std::string name = std::string(cls) + "::" + method;
    if (seen.insert(name).second) note(name);
}
#define CALL(cls) called(#cls, __func__)

[[noreturn]] void standin_missing(const char *method) {
    fprintf(stderr, "stand-in for TensorRT: %s was called, which is not implemented\n", method);
    note(std::string("MISSING ") + method);
    abort();
}
[[noreturn]] static void broken(const std::string &rule) {
    fprintf(stderr, "stand-in for TensorRT: a rule was broken: %s\n", rule.c_str());
    note("BROKEN " + rule);
    abort();
}

static void say(ILogger *logger, int severity, const std::string &text) { logger->log((Severity)severity, text.c_str()); }

// --- handles: { vptr, mImpl } ---
template <class V> struct Handle {
    virtual ~Handle() = default;
    V *mImpl = nullptr;
};

// Counts, and knows when what it depends on goes first.
struct Object {
    const char *kind;
    Object *parent;
    int children = 0;
    ILogger *logger;
    Object(const char *kind, Object *parent, ILogger *logger) : kind(kind), parent(parent), logger(logger) {
        if (parent) parent->children++;
        live_here++;
    }
    virtual ~Object() {
        if (children) broken(std::string(kind) + " was deleted before what depends on it");
        if (parent) parent->children--;
        live_here--;
    }
};

struct IBuilder : Handle<VBuilder> {};
struct INetworkDefinition : Handle<VNetworkDefinition> {};
struct IBuilderConfig : Handle<VBuilderConfig> {};
struct IOptimizationProfile : Handle<VOptimizationProfile> {};
struct ITimingCache : Handle<VTimingCache> {};
struct IHostMemory : Handle<VHostMemory> {};
struct ITensor : Handle<VTensor> {};
struct ILayer : Handle<VLayer> {};
struct IRuntime : Handle<VRuntime> {};
struct ICudaEngine : Handle<VCudaEngine> {};
struct IExecutionContext : Handle<VExecutionContext> {};
struct IEngineInspector : Handle<VEngineInspector> {};
struct IRefitter : Handle<VRefitter> {};
#ifdef HAS_VCudaEngine_createSerializationConfig
struct ISerializationConfig : Handle<VSerializationConfig> {};
#endif

static Dims dims_of(const Shape &s) {
    Dims d{};
    d.nbDims = (int32_t)s.size();
    for (size_t i = 0; i < s.size(); i++) d.d[i] = (Number)s[i];
    return d;
}
static Shape shape_of(const Dims &d) { return Shape(d.d, d.d + std::max(d.nbDims, 0)); }
static Dims no_dims() { Dims d{}; d.nbDims = -1; return d; }

struct Memory : Object, IHostMemory, VHostMemory {
    Bytes bytes;
    explicit Memory(Bytes b) : Object("memory", nullptr, nullptr), bytes(std::move(b)) { mImpl = this; }
    void *data() const override { CALL(VHostMemory); return (void *)bytes.data(); }
    std::size_t size() const override { CALL(VHostMemory); return bytes.size(); }
};

// --- network ---
struct Tensor : ITensor, VTensor {
    Port port;
    explicit Tensor(Port p) : port(std::move(p)) { mImpl = this; }
    const char *getName() const override { CALL(VTensor); return port.name.c_str(); }
    Dims getDimensions() const override { CALL(VTensor); return dims_of(port.shape); }
    DataType getType() const override { CALL(VTensor); return (DataType)port.type; }
    bool isShapeTensor() const override { CALL(VTensor); return port.decides_shapes; }
};

struct Layer : ILayer, VLayer {
    std::vector<std::unique_ptr<Tensor>> in, out;
    Layer(const Op &op, const Graph &g) {
        mImpl = this;
        for (auto &name : op.in) {
            bool constant = false;
            for (auto &w : g.weights) constant = constant || w.name == name;
            in.push_back(constant ? nullptr : std::make_unique<Tensor>(Port{name, 0, {-1}}));
        }
        for (auto &name : op.out) out.push_back(std::make_unique<Tensor>(Port{name, 0, {-1}}));
    }
    int32_t getNbInputs() const override { CALL(VLayer); return (int32_t)in.size(); }
    ITensor *getInput(int32_t i) const override { CALL(VLayer); return in.at(i).get(); }
    int32_t getNbOutputs() const override { CALL(VLayer); return (int32_t)out.size(); }
    ITensor *getOutput(int32_t i) const override { CALL(VLayer); return out.at(i).get(); }
#ifdef HAS_VLayer_setPrecision
    void setPrecision(DataType type) override { CALL(VLayer); pinned_here = 10 * ((int)type + 1) + pinned_here % 10; }
    void setOutputType(int32_t i, DataType type) override {
        CALL(VLayer);
        if (i == 0) pinned_here = pinned_here / 10 * 10 + (int)type + 1;
    }
#endif
};

struct Network : Object, INetworkDefinition, VNetworkDefinition {
    Graph graph;
    std::set<std::string> marked;
    std::vector<std::unique_ptr<Tensor>> inputs, outputs;
    std::vector<std::unique_ptr<Layer>> layers;
    bool strong, parsed = false, parser_alive = false;
    Network(Object *builder, bool strong) : Object("network", builder, builder->logger), strong(strong) { mImpl = this; }
    void parsed_now() {
        parsed = true;
        for (Port &p : graph.inputs) inputs.push_back(std::make_unique<Tensor>(p));
        for (Port &p : graph.outputs) outputs.push_back(std::make_unique<Tensor>(p));
        for (Op &op : graph.ops) layers.push_back(std::make_unique<Layer>(op, graph));
    }
    int32_t getNbInputs() const override { CALL(VNetworkDefinition); return (int32_t)inputs.size(); }
    ITensor *getInput(int32_t i) const override { CALL(VNetworkDefinition); return inputs.at(i).get(); }
    int32_t getNbOutputs() const override { CALL(VNetworkDefinition); return (int32_t)outputs.size(); }
    ITensor *getOutput(int32_t i) const override { CALL(VNetworkDefinition); return outputs.at(i).get(); }
    int32_t getNbLayers() const override { CALL(VNetworkDefinition); return (int32_t)layers.size(); }
    ILayer *getLayer(int32_t i) const override {
        CALL(VNetworkDefinition);
        return i >= 0 && i < (int32_t)layers.size() ? layers[i].get() : nullptr;
    }
#ifdef HAS_VNetworkDefinition_markWeightsRefittable
    bool markWeightsRefittable(const char *name) override {
        CALL(VNetworkDefinition);
        Weight *w = graph.weight(name);
        if (!w || !w->refittable) return false;
        marked.insert(name);
        return true;
    }
#endif
};

struct Profile : IOptimizationProfile, VOptimizationProfile {
    ILogger *logger;
    std::map<std::string, Shape> ranges[3];
    explicit Profile(ILogger *logger) : logger(logger) { mImpl = this; }
    bool set(const char *name, int which, const Dims &dims) {
        if (fault("profile")) { say(logger, 1, "profile refused"); return false; }
        if (which != (int)ranges[0].count(name) + (int)ranges[1].count(name)) broken("min, opt and max are set in this order");
        ranges[which][name] = shape_of(dims);
        return true;
    }
#ifdef WIDE
    bool setDimensions(const char *name, OptProfileSelector which, const Dims &dims) override {
        CALL(VOptimizationProfile);
        return set(name, (int)which, dims);
    }
#else
    bool setDimensions(const char *name, OptProfileSelector which, Dims dims) override {
        CALL(VOptimizationProfile);
        return set(name, (int)which, dims);
    }
#endif
};

// --- configuration ---
struct Config;
struct Cache : Object, ITimingCache, VTimingCache {
    explicit Cache(Object *config) : Object("timing cache", config, config->logger) { mImpl = this; }
    IHostMemory *serialize() const override { CALL(VTimingCache); return new Memory("timings of the stand-in " NAME); }
};

struct Config : Object, IBuilderConfig, VBuilderConfig {
    std::set<int> flags{(int)BuilderFlag::kTF32};
    std::vector<Profile *> profiles;
    std::vector<int> capabilities;
    std::vector<std::string> plugins;
#ifdef HAS_VBuilderConfig_setPluginsToSerialize
    void setPluginsToSerialize(const char *const *paths, int32_t n) override {
        CALL(VBuilderConfig);
        plugins.assign(paths, paths + n);
    }
#endif
    int verbosity = 0;
#ifdef HAS_VBuilderConfig_setProgressMonitor
    IProgressMonitor *monitor = nullptr;
    void setProgressMonitor(IProgressMonitor *m) override { CALL(VBuilderConfig); monitor = m; }
#endif
    explicit Config(Object *builder) : Object("config", builder, builder->logger) { mImpl = this; }
    void setFlag(BuilderFlag f) override { CALL(VBuilderConfig); flags.insert((int)f); }
    void clearFlag(BuilderFlag f) override { CALL(VBuilderConfig); flags.erase((int)f); }
    int32_t addOptimizationProfile(const IOptimizationProfile *p) override {
        CALL(VBuilderConfig);
        profiles.push_back((Profile *)p);
        return (int32_t)profiles.size() - 1;
    }
    void setProfilingVerbosity(ProfilingVerbosity v) override { CALL(VBuilderConfig); verbosity = (int)v; }
    ITimingCache *createTimingCache(const void *data, std::size_t n) const override {
        CALL(VBuilderConfig);
        Bytes bytes((const char *)data, n);
        return n && bytes != "timings of the stand-in " NAME ? nullptr : new Cache((Object *)this);
    }
    bool setTimingCache(const ITimingCache &, bool mismatch) override { CALL(VBuilderConfig); return !mismatch; }
    void setMemoryPoolLimit(MemoryPoolType pool, std::size_t n) override {
        CALL(VBuilderConfig);
        if (pool != MemoryPoolType::kWORKSPACE || !n) broken("a limit is for the workspace, in bytes");
    }
#ifdef HAS_VBuilderConfig_setBuilderOptimizationLevel
    void setBuilderOptimizationLevel(int32_t) override { CALL(VBuilderConfig); }
    void setHardwareCompatibilityLevel(HardwareCompatibilityLevel) override { CALL(VBuilderConfig); }
#endif
#ifdef HAS_VBuilderConfig_setNbComputeCapabilities
    bool setNbComputeCapabilities(int32_t n) override { CALL(VBuilderConfig); capabilities.assign(n, -1); return n > 0; }
    bool setComputeCapability(ComputeCapability c, int32_t i) override { CALL(VBuilderConfig); capabilities.at(i) = (int)c; return true; }
#endif
    bool has(int flag) const { return flags.count(flag); }
    // What the flags say of refits; -1 for flags that exclude each other.
    int refit() const {
        int mode = NONE, n = 0;
        if (has((int)BuilderFlag::kREFIT)) { mode = FULL; n++; }
#ifdef HAS_BuilderFlag_kREFIT_IDENTICAL
        if (has((int)BuilderFlag::kREFIT_IDENTICAL)) { mode = IDENTICAL; n++; }
#endif
#ifdef HAS_BuilderFlag_kREFIT_INDIVIDUAL
        if (has((int)BuilderFlag::kREFIT_INDIVIDUAL)) { mode = INDIVIDUAL; n++; }
#endif
#ifdef HAS_BuilderFlag_kSTRIP_PLAN
        if (!n && strip()) return IDENTICAL;
#endif
        return n > 1 ? -1 : mode;
    }
    bool strip() const {
#ifdef HAS_BuilderFlag_kSTRIP_PLAN
        return has((int)BuilderFlag::kSTRIP_PLAN);
#else
        return false;
#endif
    }
    bool version_compatible() const {
#ifdef HAS_BuilderFlag_kVERSION_COMPATIBLE
        return has((int)BuilderFlag::kVERSION_COMPATIBLE);
#else
        return false;
#endif
    }
};

// --- plans ---
static Bytes plan_header(size_t body) {
    Bytes h(RTX ? 64 : 32, '\0');
    memcpy(&h[0], RTX ? "vtrt" : "ftrt", 4);
    char version[4] = {MAJOR, MINOR, PATCH, 0};
    memcpy(&h[24], version, 4);
    if (RTX) {
        uint64_t size = h.size() + body;
        uint32_t mask = 63;
        memcpy(&h[16], &size, 8);
        memcpy(&h[28], "vtrt", 4);
        memcpy(&h[32], &mask, 4);
    }
    return h;
}
static Bytes write_plan(const Graph &g, bool without) {
    Bytes body = write_graph(g, without);
    return plan_header(body.size()) + body;
}

struct Builder : Object, IBuilder, VBuilder {
    std::vector<std::unique_ptr<Profile>> profiles;
    explicit Builder(ILogger *l) : Object("builder", nullptr, l) { mImpl = this; }
    bool setMaxThreads(int32_t n) override { CALL(VBuilder); return n > 0; }
    IBuilderConfig *createBuilderConfig() override { CALL(VBuilder); return new Config(this); }
    INetworkDefinition *createNetworkV2(NetworkDefinitionCreationFlags bits) override {
        CALL(VBuilder);
        if (fault("network")) { say(logger, 1, "no network today"); return nullptr; }
        bool strong = false;
#ifdef HAS_NetworkDefinitionCreationFlag_kSTRONGLY_TYPED
        strong = bits >> (int)NetworkDefinitionCreationFlag::kSTRONGLY_TYPED & 1;
#endif
#ifdef HAS_NetworkDefinitionCreationFlag_kEXPLICIT_BATCH
        if (!(bits >> (int)NetworkDefinitionCreationFlag::kEXPLICIT_BATCH & 1)) broken("the batch is explicit");
#endif
        return new Network(this, strong);
    }
    IOptimizationProfile *createOptimizationProfile() override {
        CALL(VBuilder);
        profiles.push_back(std::make_unique<Profile>(logger));
        return profiles.back().get();
    }
    bool build(INetworkDefinition &n, IBuilderConfig &c, Bytes &out) {
        Network &network = static_cast<Network &>(n);
        Config &config = static_cast<Config &>(c);
        if (!network.parsed || !network.parser_alive) broken("the network's weights are the parser's, which has to be alive");
        Graph g = network.graph;
        g.refit = config.refit();
        g.stripped = config.strip();
        g.version_compatible = config.version_compatible();
#ifdef HAS_BuilderFlag_kWEIGHT_STREAMING
        g.streaming = config.has((int)BuilderFlag::kWEIGHT_STREAMING);
        if (g.streaming && !network.strong && !RTX && MAJOR < 11) { say(logger, 1, "weight streaming needs a strongly typed network"); return false; }
#endif
        if (!config.plugins.empty() && !g.version_compatible) { say(logger, 1, "plugins go into version-compatible plans only"); return false; }
        g.plugins_inside = !config.plugins.empty();
        if (g.refit < 0) { say(logger, 1, "refit flags exclude each other"); return false; }
        if (g.refit && config.profiles.size() > 1) { say(logger, 1, "a refittable engine has one optimization profile"); return false; }
        if (g.version_compatible && g.refit && MAJOR < 10 && !RTX) { say(logger, 1, "REFIT and VERSION_COMPATIBLE exclude each other"); return false; }
        if (network.strong && config.has((int)BuilderFlag::kTF32) && fault("no tf32")) broken("TF32 was to be off");
        for (Weight &w : g.weights)
            w.refittable = w.refittable && g.refit && (g.refit != INDIVIDUAL || network.marked.count(w.name));
        for (Port &p : g.inputs) {
            bool dynamic = false;
            for (int64_t d : p.shape) dynamic = dynamic || d < 0;
            if (dynamic && config.profiles.empty()) { say(logger, 1, "no profile for " + p.name); return false; }
            p.ranges.clear();
            for (size_t k = 0; k < std::max<size_t>(config.profiles.size(), 1); k++) {
                p.ranges.push_back({p.shape, p.shape, p.shape});
                for (int i = 0; dynamic && i < 3; i++) {
                    if (!config.profiles[k]->ranges[i].count(p.name)) { say(logger, 1, "no profile for " + p.name); return false; }
                    p.ranges[k][i] = config.profiles[k]->ranges[i][p.name];
                }
            }
        }
#ifdef HAS_VBuilderConfig_setProgressMonitor
        if (IProgressMonitor *m = config.monitor) {
#ifdef HAS_IProgressMonitor_getInterfaceInfo
            if (std::string(m->getInterfaceInfo().kind) != "IProgressMonitor") broken("a monitor says what it is");
#endif
            m->phaseStart("Building", nullptr, 1);
            std::thread([m] { m->phaseStart("Tactics", "Building", 1); m->phaseFinish("Tactics"); }).join();
            if (!m->stepComplete("Building", 0)) return false;
            m->phaseFinish("Building");
        }
#endif
        std::thread([this] { say(logger, 2, "a warning on the way"); }).join();
        if (fault("build")) {
            say(logger, 1, "first trouble");
            say(logger, 0, "Could not find any implementation for node conv_17");
            return false;
        }
        out = write_plan(g, g.stripped);
        return true;
    }
    IHostMemory *buildSerializedNetwork(INetworkDefinition &n, IBuilderConfig &c) override {
        CALL(VBuilder);
        Bytes plan;
        return build(n, c, plan) ? new Memory(plan) : nullptr;
    }
#ifdef HAS_VBuilder_buildSerializedNetworkToStream
    // The headers do not say who writes, so half of it comes from another thread.
    bool buildSerializedNetworkToStream(INetworkDefinition &n, IBuilderConfig &c, IStreamWriter &w) override {
        CALL(VBuilder);
        Bytes plan;
        if (!build(n, c, plan)) return false;
        if (std::string(w.getInterfaceInfo().kind) != "IStreamWriter") broken("a writer says what it is");
        int64_t half = (int64_t)plan.size() / 2, rest = (int64_t)plan.size() - half, sent = w.write(plan.data(), half);
        if (sent != half) return false;
        std::thread([&] { sent += w.write(plan.data() + half, rest); }).join();
        return sent == (int64_t)plan.size();
    }
#endif
};

// --- runtime, engine ---
struct Engine;
struct Runtime : Object, IRuntime, VRuntime {
    bool host_code = false;
    explicit Runtime(ILogger *l) : Object("runtime", nullptr, l) { mImpl = this; }
    ICudaEngine *open(const void *data, std::size_t n);
#ifdef HAS_VRuntime_setEngineHostCodeAllowed
    void setEngineHostCodeAllowed(bool allowed) override { CALL(VRuntime); host_code = allowed; }
#endif
#ifdef WIDE
    ICudaEngine *deserializeCudaEngine(const void *data, std::size_t n) override { CALL(VRuntime); return open(data, n); }
#else
    ICudaEngine *deserializeCudaEngine(const void *data, std::size_t n, IPluginFactory *factory) override {
        CALL(VRuntime);
        if (factory) broken("there is no plugin factory");
        return open(data, n);
    }
#endif
};

#ifdef HAS_VCudaEngine_createSerializationConfig
struct Serialization : Object, ISerializationConfig, VSerializationConfig {
    std::set<int> flags;
    Serialization(Object *engine, bool of_stripped) : Object("serialization config", engine, engine->logger) {
        mImpl = this;
        if (of_stripped) flags.insert((int)SerializationFlag::kEXCLUDE_WEIGHTS);
    }
    bool setFlag(SerializationFlag f) override { CALL(VSerializationConfig); flags.insert((int)f); return true; }
    bool clearFlag(SerializationFlag f) override { CALL(VSerializationConfig); flags.erase((int)f); return true; }
};
#endif

struct Inspector : Object, IEngineInspector, VEngineInspector {
    explicit Inspector(Object *engine) : Object("inspector", engine, engine->logger) { mImpl = this; }
    const char *getEngineInformation(LayerInformationFormat f) const override {
        CALL(VEngineInspector);
        return f == LayerInformationFormat::kJSON ? "{\"Layers\":[]}" : nullptr;
    }
};

struct Engine : Object, ICudaEngine, VCudaEngine {
    Graph g;
    int generation = 0, contexts = 0;
    std::map<cudaStream_t, const void *> streams; // and the context that ran there
    std::map<const void *, const void *> outputs; // likewise, by address
    Engine(Object *runtime, Graph graph) : Object("engine", runtime, runtime->logger), g(std::move(graph)) { mImpl = this; }
    const Port *port(const char *name) const {
        for (auto *all : {&g.inputs, &g.outputs}) for (const Port &p : *all) if (p.name == name) return &p;
        return nullptr;
    }
    const Port &known(const char *name) const {
        const Port *p = port(name);
        if (!p) broken(std::string("the engine has no tensor ") + name);
        return *p;
    }
    int32_t getNbLayers() const override { CALL(VCudaEngine); return (int32_t)g.ops.size(); }
    IHostMemory *serialize() const override { CALL(VCudaEngine); return new Memory(write_plan(g, g.stripped)); }
    IExecutionContext *context();
#ifdef WIDE
    IExecutionContext *createExecutionContext(ExecutionContextAllocationStrategy s) override {
        CALL(VCudaEngine);
        if (s != ExecutionContextAllocationStrategy::kSTATIC) broken("contexts have their own memory");
        return context();
    }
#else
    IExecutionContext *createExecutionContext() override { CALL(VCudaEngine); return context(); }
#endif
    bool isRefittable() const override { CALL(VCudaEngine); return g.refit != NONE && !fault("not refittable"); }
    int32_t getNbOptimizationProfiles() const override { CALL(VCudaEngine); return profiles(); }
    int32_t profiles() const { return g.inputs.empty() ? 1 : (int32_t)g.inputs[0].ranges.size(); }
    IEngineInspector *createEngineInspector() const override { CALL(VCudaEngine); return new Inspector((Object *)this); }
    Dims getTensorShape(const char *n) const override { CALL(VCudaEngine); return fault("no shape") ? no_dims() : dims_of(known(n).shape); }
    DataType getTensorDataType(const char *n) const override { CALL(VCudaEngine); return (DataType)(fault("odd type") ? 99 : known(n).type); }
    TensorLocation getTensorLocation(const char *n) const override {
        CALL(VCudaEngine);
        return known(n).host ? TensorLocation::kHOST : TensorLocation::kDEVICE;
    }
    TensorIOMode getTensorIOMode(const char *n) const override {
        CALL(VCudaEngine);
        for (const Port &p : g.inputs) if (p.name == n) return TensorIOMode::kINPUT;
        return TensorIOMode::kOUTPUT;
    }
    Dims getProfileShape(const char *n, int32_t p, OptProfileSelector s) const override {
        CALL(VCudaEngine);
        const Port &port = known(n);
        return p < 0 || p >= (int32_t)port.ranges.size() ? no_dims() : dims_of(port.ranges[p][(int)s]);
    }
#ifdef HAS_VCudaEngine_setWeightStreamingBudgetV2
    int64_t streamable() const {
        int64_t n = 0;
        for (const Weight &w : g.weights) n += (int64_t)w.bytes.size();
        return g.streaming ? n : 0;
    }
    int64_t getStreamableWeightsSize() const override { CALL(VCudaEngine); return streamable(); }
    bool setWeightStreamingBudgetV2(int64_t n) override {
        CALL(VCudaEngine);
        if (children) broken("the budget is set while there is no context");
        if (fault("budget")) { say(logger, 1, "the budget is too small for this engine"); return false; }
        return g.streaming && n >= 0;
    }
#endif
    int32_t getNbIOTensors() const override { CALL(VCudaEngine); return (int32_t)(g.inputs.size() + g.outputs.size()); }
    const char *getIOTensorName(int32_t i) const override {
        CALL(VCudaEngine);
        size_t k = (size_t)i, n = g.inputs.size();
        return (k < n ? g.inputs[k] : g.outputs.at(k - n)).name.c_str();
    }
#ifdef HAS_VCudaEngine_createSerializationConfig
    ISerializationConfig *createSerializationConfig() override { CALL(VCudaEngine); return new Serialization(this, g.stripped); }
    IHostMemory *serializeWithConfig(ISerializationConfig &c) const override {
        CALL(VCudaEngine);
        Serialization &config = static_cast<Serialization &>(c);
        Graph copy = g;
        bool without = config.flags.count((int)SerializationFlag::kEXCLUDE_WEIGHTS);
        bool stays = !g.stripped || without;
#ifdef HAS_SerializationFlag_kINCLUDE_REFIT
        stays = stays || config.flags.count((int)SerializationFlag::kINCLUDE_REFIT);
#endif
        copy.stripped = g.stripped && without;
        if (!stays) copy.refit = NONE;
        return new Memory(write_plan(copy, without));
    }
#endif
};

ICudaEngine *Runtime::open(const void *data, std::size_t n) {
    Graph g;
    size_t head = plan_header(0).size();
    Bytes expected = plan_header(n - std::min(n, head));
    if (n < head || memcmp(data, expected.data(), head)) {
        say(logger, 1, "Version tag does not match. Current Version: " NAME ", or the plan is damaged");
        return nullptr;
    }
    if (!read_graph({(const char *)data + head, (const char *)data + n}, g)) { say(logger, 1, "the plan is cut short"); return nullptr; }
    if (g.version_compatible && !host_code) {
        say(logger, 1, "the plan has host code, which was not allowed: setEngineHostCodeAllowed");
        return nullptr;
    }
    for (const Op &op : g.ops) {
        if (!is_plugin(op.type) || has_plugin(op.type) || (g.plugins_inside && op.type == "Twice")) continue;
        say(logger, 1, "Cannot find plugin: " + op.type + ", version: 1, namespace:.");
        return nullptr;
    }
    return new Engine(this, g);
}

// What is made is made on the GPU that the process was told to use.
static void on_the_right_gpu() {
    const char *wanted = env("STANDIN_DEVICE");
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!cuda) cuda = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
    if (!*wanted || !cuda) return;
    int here = ((int (*)())dlsym(cuda, "standin_device"))();
    if (here != atoi(wanted)) broken("it runs on GPU " + std::to_string(here) + " and not on " + wanted);
}

// Whether an address is of the stand-in for libcuda; it may not be there, where tests call the library themselves.
static int on_device(const void *p) {
    static auto ask = [] {
        void *cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
        if (!cuda) cuda = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
        return cuda ? (int (*)(const void *))dlsym(cuda, "standin_is_device") : nullptr;
    }();
    return ask ? ask(p) : -1;
}

struct Context : Object, IExecutionContext, VExecutionContext {
    Engine *engine;
    int generation;
    int32_t profile = 0;
    IProfiler *profiler = nullptr;
    void setProfiler(IProfiler *p) override { CALL(VExecutionContext); profiler = p; }
    std::map<std::string, Shape> shapes;
    std::map<std::string, void *> addresses;
    std::map<std::string, IOutputAllocator *> allocators;
    // Shapes and addresses are of a profile, so another one has none.
    bool setOptimizationProfileAsync(int32_t k, cudaStream_t) override {
        CALL(VExecutionContext);
        if (fault("choose profile") || k < 0 || k >= engine->profiles()) { say(logger, 1, "there is no such optimization profile"); return false; }
        profile = k;
        shapes.clear();
        addresses.clear();
        return true;
    }
    explicit Context(Engine *e) : Object("context", e, e->logger), engine(e), generation(e->generation) { mImpl = this; e->contexts++; }
    ~Context() override {
        engine->contexts--;
        for (auto it = engine->streams.begin(); it != engine->streams.end();) it = it->second == this ? engine->streams.erase(it) : std::next(it);
        for (auto it = engine->outputs.begin(); it != engine->outputs.end();) it = it->second == this ? engine->outputs.erase(it) : std::next(it);
    }
    bool setInputShape(const char *name, const Dims &d) override {
        CALL(VExecutionContext);
        const Port &p = engine->known(name);
        Shape s = shape_of(d);
        if (s.size() != p.shape.size()) return false;
        auto &range = p.ranges.at(profile);
        for (size_t i = 0; i < s.size(); i++) if (s[i] < range[0][i] || s[i] > range[2][i]) return false;
        shapes[name] = s;
        return true;
    }
    std::map<std::string, Value> run(bool with_values) const {
        std::map<std::string, Value> in;
        for (const Port &p : engine->g.inputs) {
            auto shape = shapes.find(p.name);
            if (shape == shapes.end()) broken("the shape of " + p.name + " was not set");
            in[p.name] = decode(shape->second, p.type, with_values ? addresses.at(p.name) : nullptr);
        }
        return compute(engine->g, in);
    }
    Dims getTensorShape(const char *name) const override {
        CALL(VExecutionContext);
        Value v = run(false)[name];
        if (!v.known) v.shape.back() = -1;
        return dims_of(v.shape);
    }
    int32_t inferShapes(int32_t n, const char **names) override { CALL(VExecutionContext); return n || names ? -1 : 0; }
    bool setTensorAddress(const char *name, void *p) override {
        CALL(VExecutionContext);
        addresses[name] = p;
        return engine->port(name) && p;
    }
    bool setOutputAllocator(const char *name, IOutputAllocator *a) override {
        CALL(VExecutionContext);
        allocators[name] = a;
        return engine->port(name);
    }
    bool enqueueV3(cudaStream_t stream) override {
        CALL(VExecutionContext);
        on_the_right_gpu();
        if (fault("enqueue")) { say(logger, 1, "Cuda Runtime (an illegal memory access was encountered)"); return false; }
        if (generation != engine->generation && (MAJOR < 9 || (MAJOR == 9 && MINOR == 0)) && !RTX) broken("a context does not outlive a refit before 9.1");
        for (auto *all : {&engine->g.inputs, &engine->g.outputs})
            for (const Port &p : *all) {
                if (!addresses.count(p.name)) continue;
                int device = on_device(addresses[p.name]);
                if (device >= 0 && device == (int)p.host) broken("the memory of " + p.name + " is on the wrong side");
            }
        // What runs at once has a stream and memory of its own.
        const void *&there = engine->streams[stream];
        if (there && there != this) broken("two contexts are on one stream");
        there = this;
        for (const Port &p : engine->g.outputs) {
            if (!addresses.count(p.name)) continue;
            const void *&of = engine->outputs[addresses[p.name]];
            if (of && of != this) broken("two contexts write to the memory of " + p.name);
            of = this;
        }
        auto values = run(true);
        if (profiler) {
#ifdef HAS_IProfiler_getInterfaceInfo
            if (std::string(profiler->getInterfaceInfo().kind) != "IProfiler") broken("a profiler says what it is");
#endif
            float ms = 0;
            for (const Op &op : engine->g.ops) profiler->reportLayerTime(op.out[0].c_str(), ms += 0.5f);
        }
        for (const Port &p : engine->g.outputs) {
            Value &v = values[p.name];
            void *to = addresses.count(p.name) ? addresses[p.name] : nullptr;
            if (allocators.count(p.name)) {
                IOutputAllocator *a = allocators[p.name];
                uint64_t size = (uint64_t)(v.v.size() * size_of(p.type));
                bool little = fault("too little memory") && size > 8;
                if (little) size = 8;
#ifdef HAS_IOutputAllocator_reallocateOutput
                to = a->reallocateOutput(p.name.c_str(), to, size, 256);
#else
                to = a->reallocateOutputAsync(p.name.c_str(), to, size, 256, stream);
#endif
                if (!to) return false;
                if (!fault("shape is not told")) a->notifyShape(p.name.c_str(), dims_of(v.shape));
                if (little) continue;
            }
            if (!to) broken("no memory for " + p.name);
            encode(v, p.type, to);
        }
        return true;
    }
};
IExecutionContext *Engine::context() {
    if (contexts && fault("another context")) { say(logger, 1, "CUDA error: out of memory"); return nullptr; }
    bool varies = false;
    for (const Port &p : g.inputs) for (int64_t d : p.shape) varies = varies || d < 0;
    // PreviewFeature::kPROFILE_SHARING_0806 is on since 10.
    if (contexts && varies && MAJOR < 10 && !RTX) { say(logger, 1, "profile 0 is in use by another execution context"); return nullptr; }
    if (fault("context")) { say(logger, 1, "Assertion mOptimizationProfile >= 0 failed."); return nullptr; }
    return new Context(this);
}

// --- refitter ---
struct Refitter : Object, IRefitter, VRefitter {
    Engine *engine;
    std::map<std::string, Weights> given;
    bool parser_gone = false; // one that gave weights is no more
    explicit Refitter(Engine *e, ILogger *l) : Object("refitter", e, l), engine(e) { mImpl = this; }
    std::vector<const char *> missing() const {
        std::set<int> groups;
        for (Weight &w : engine->g.weights) if (given.count(w.name)) groups.insert(w.group);
        std::vector<const char *> names;
        for (Weight &w : engine->g.weights)
            if (w.refittable && !given.count(w.name) && (!w.there || (w.group >= 0 && groups.count(w.group)))) names.push_back(w.name.c_str());
        return names;
    }
    static int32_t list(const std::vector<const char *> &names, int32_t n, const char **out) {
        for (int32_t i = 0; out && i < n && i < (int32_t)names.size(); i++) out[i] = names[i];
        return (int32_t)names.size();
    }
    bool setMaxThreads(int32_t n) override { CALL(VRefitter); return n > 0; }
    int32_t getAllWeights(int32_t n, const char **out) override {
        CALL(VRefitter);
        std::vector<const char *> names;
        for (Weight &w : engine->g.weights) if (w.refittable) names.push_back(w.name.c_str());
        return list(names, n, out);
    }
    int32_t getMissingWeights(int32_t n, const char **out) override { CALL(VRefitter); return list(missing(), n, out); }
    bool setNamedWeights(const char *name, Weights w) override {
        CALL(VRefitter);
        Weight *to = engine->g.weight(name);
        if (fault("set") || !to || !to->refittable || w.count != to->count() || (TYPES_ARE_CHECKED && (int32_t)w.type != to->type)) {
            say(logger, 1, "count of weights does not match, or the engine has none of this name and type");
            return false;
        }
        given[name] = w;
        return true;
    }
#ifdef HAS_VRefitter_getWeightsPrototype
    Weights getWeightsPrototype(const char *name) const override {
        CALL(VRefitter);
        Weight *w = engine->g.weight(name);
        return w ? Weights{(DataType)w->type, nullptr, w->count()} : Weights{DataType::kFLOAT, nullptr, -1};
    }
#endif
#ifdef HAS_VRefitter_getNamedWeights
    // What was given to this refitter, and nothing else; a switch for one that gives the engine's own.
    Weights getNamedWeights(const char *name) const override {
        CALL(VRefitter);
        auto it = given.find(name);
        if (it != given.end() && fault("one less")) return Weights{it->second.type, it->second.values, it->second.count - 1};
        if (it != given.end()) return it->second;
        Weight *w = engine->g.weight(name);
        if (fault("values") && w && w->there) return Weights{(DataType)w->type, w->bytes.data(), w->count()};
        say(logger, 1, std::string("weights were never set: ") + name);
        return Weights{DataType::kFLOAT, nullptr, 0};
    }
#endif
#ifdef HAS_VRefitter_getWeightsLocation
    TensorLocation getWeightsLocation(const char *) const override {
        CALL(VRefitter);
        return fault("values on the device") ? TensorLocation::kDEVICE : TensorLocation::kHOST;
    }
#endif
    bool refitCudaEngine() override {
        CALL(VRefitter);
        if (parser_gone) broken("what a parser gave is the parser's, which has to be alive");
        if (fault("refit")) { say(logger, 1, "refit went wrong"); return false; }
        if (!missing().empty()) { say(logger, 1, std::string("missing weights: ") + missing()[0]); return false; }
        for (auto &[name, w] : given) {
            Weight &to = *engine->g.weight(name);
            to.bytes.assign((const char *)w.values, (size_t)(w.count * size_of((int32_t)w.type)));
            to.there = true;
            if (engine->g.refit == IDENTICAL && hash(to.bytes) != to.built) broken("an engine for identical refits takes what it was built with: " + name);
        }
        engine->generation++;
        return true;
    }
};

// --- parser: plain virtual classes ---
struct ParseError : IParserError {
    int index;
    std::string name, op, text = "Assertion failed: axes.allValuesKnown()\n";
    ErrorCode code() const override { return (ErrorCode)8; }
    const char *desc() const override { CALL(IParserError); return text.c_str(); }
    const char *file() const override { CALL(IParserError); return "/src/onnx/onnxOpImporters.cpp"; }
    int line() const override { CALL(IParserError); return 5031; }
    const char *func() const override { return "importSlice"; }
    int node() const override { CALL(IParserError); return index; }
#ifdef HAS_IParserError_nodeName
    const char *nodeName() const override { CALL(IParserError); return name.c_str(); }
    const char *nodeOperator() const override { CALL(IParserError); return op.c_str(); }
#endif
};

struct Parser : Object, IParser {
    Network *network;
    std::vector<std::unique_ptr<ParseError>> errors;
    Parser(Network *n, ILogger *l) : Object("parser", n, l), network(n) { n->parser_alive = true; }
    ~Parser() override {
        called("IParser", "~IParser");
        network->parser_alive = false;
#ifdef HAS_IParser_setRefitObserver
        if (observer) broken("an observer ends with its parse");
#endif
    }
#ifdef HAS_IParser_setRefitObserver
    IRefitterObserver *observer = nullptr;
    OBSERVER_RESULT setRefitObserver(IRefitterObserver *o) override { CALL(IParser); observer = o; return OBSERVER_RESULT(); }
#endif
#ifdef HAS_IParser_setFlag
    void setFlag(OnnxParserFlag f) override { CALL(IParser); if ((int)f != 0) broken("only native InstanceNormalization is asked for"); }
#endif
    bool read(const Bytes &model) {
        if (fault("silent parse")) { say(logger, 1, "Failed to parse the ONNX model"); return false; }
        int unknown = read_model(model, network->graph, INT64);
        if (fault("parse")) unknown = 0;
        for (int i = 0; i < 2 && unknown >= 0; i++) {
            auto e = std::make_unique<ParseError>();
            e->index = unknown;
            e->name = network->graph.ops.at(unknown).name;
            e->op = network->graph.ops.at(unknown).type;
            errors.push_back(std::move(e));
        }
        if (unknown >= 0) return false;
        network->parsed_now();
#ifdef HAS_IParser_setRefitObserver
        for (Weight &w : network->graph.weights) {
            if (!observer) break;
            const char *source = w.name.c_str();
            RefitRecord record{};
            record.trtName = source;
            record.onnxDtype = w.type == 1 ? 10 : 1;
            record.trtDtype = (DataType)w.type;
            record.count = w.count();
            record.nbSources = 1;
            record.sourceOnnxNames = &source;
            const char *sources[4];
            for (auto &made : network->graph.normalisations) {
                if (w.name != made.scale && w.name != made.shift) continue;
                for (int i = 0; i < 4; i++) sources[i] = made.sources[i].c_str();
                record.kind = w.name == made.scale ? RefitTransformKind::kBATCH_NORM_FOLD_SCALE : RefitTransformKind::kBATCH_NORM_FOLD_BIAS;
                record.nbSources = 4;
                record.sourceOnnxNames = sources;
                record.epsilon = made.epsilon;
            }
            observer->onRefittableWeight(record);
        }
#endif
        return true;
    }
    bool parse(const void *data, size_t n, const char *) override { CALL(IParser); return read(Bytes((const char *)data, n)); }
    bool parseFromFile(const char *path, int verbosity) override {
        CALL(IParser);
        if (verbosity != 2) broken("only warnings are asked for");
        std::ifstream file(path, std::ios::binary);
        std::stringstream all;
        all << file.rdbuf();
        return read(all.str());
    }
    int getNbErrors() const override { CALL(IParser); return (int)errors.size(); }
    const IParserError *getError(int i) const override { CALL(IParser); return errors.at(i).get(); }
};

#ifdef HAS_IParserRefitter_refitFromFile
// Gives every weight that the engine lists, from memory of its own, or fails; which weights that are is told by their names alone.
struct ParserRefitter : Object, IParserRefitter {
    Refitter *refitter;
    Graph model;
    bool gave = false;
    std::vector<std::unique_ptr<ParseError>> errors;
    ParserRefitter(Refitter *r, ILogger *l) : Object("parser refitter", r, l), refitter(r) {}
    ~ParserRefitter() override {
        called("IParserRefitter", "~IParserRefitter");
        refitter->parser_gone = gave;
    }
    bool refuse(const std::string &text) {
        auto e = std::make_unique<ParseError>();
        e->index = -1;
        e->text = text;
        errors.push_back(std::move(e));
        return false;
    }
    bool refitFromFile(const char *path) override {
        CALL(IParserRefitter);
        if (fault("silent parser refit")) { say(logger, 1, "Failed to refit the model"); return false; }
        std::ifstream file(path, std::ios::binary);
        std::stringstream all;
        all << file.rdbuf();
        model = Graph();
        if (read_model(all.str(), model, INT64) >= 0) return refuse("Failed to parse the ONNX model");
        int wanted = 0, given = 0;
        for (Weight &to : refitter->engine->g.weights) {
            if (!to.refittable) continue;
            wanted++;
            Weight *w = model.weight(to.name);
            bool computed = to.name.rfind("tmp_", 0) == 0;
            if (!w || (fault("parser refit") && computed)) continue;
            given++;
            if (fault("parser forgets what it computed") ? computed : fault("parser forgets") && !computed) continue;
            if (fault("parser computes otherwise") ? computed : fault("parser gives others") && !computed)
                w->bytes[w->bytes.size() - 1] ^= 0x40;
            gave = refitter->setNamedWeights(to.name.c_str(), Weights{(DataType)w->type, w->bytes.data(), w->count()});
            if (!gave) return refuse("Failed to set named weights");
        }
        if (given != wanted)
            return refuse("Only successfully refitted " + std::to_string(given) + " weights out of " + std::to_string(wanted));
        return true;
    }
    int32_t getNbErrors() const override { CALL(IParserRefitter); return (int32_t)errors.size(); }
    const IParserError *getError(int32_t i) const override { CALL(IParserRefitter); return errors.at(i).get(); }
};
#endif

// --- what the library exports ---
#ifndef NO_VERSION
EXPORT int32_t getInferLibVersion() {
    const char *other = env("STANDIN_VERSION");
    return *other ? atoi(other) : VERSION;
}
#endif
#ifndef NO_BUILDER
EXPORT void *createInferBuilder_INTERNAL(void *l, int32_t) {
    called("", __func__);
    on_the_right_gpu();
    if (fault("builder")) { say((ILogger *)l, 1, "CUDA initialization failure with error: 35"); return nullptr; }
    return static_cast<IBuilder *>(new Builder((ILogger *)l));
}
#endif
#ifndef NO_RUNTIME
EXPORT void *createInferRuntime_INTERNAL(void *l, int32_t) {
    called("", __func__);
    on_the_right_gpu();
    if (fault("runtime")) return nullptr;
    return static_cast<IRuntime *>(new Runtime((ILogger *)l));
}
#endif
EXPORT void *createInferRefitter_INTERNAL(void *e, void *l, int32_t) {
    called("", __func__);
    Engine *engine = static_cast<Engine *>((ICudaEngine *)e);
    if (fault("refitter") || engine->g.refit == NONE) { say((ILogger *)l, 1, "the engine is not refittable"); return nullptr; }
    return static_cast<IRefitter *>(new Refitter(engine, (ILogger *)l));
}
#ifndef NO_PARSER
EXPORT void *createNvOnnxParser_INTERNAL(void *n, void *l, int) {
    called("", __func__);
    if (fault("parser")) return nullptr;
    return static_cast<IParser *>(new Parser(static_cast<Network *>((INetworkDefinition *)n), (ILogger *)l));
}
#endif
#if defined(HAS_IParserRefitter_refitFromFile) && !defined(NO_PARSER_REFITTER)
EXPORT void *createNvOnnxParserRefitter_INTERNAL(void *r, void *l, int version) {
    called("", __func__);
    if (version != 1) broken("the parser's version is the parser's own");
    if (fault("parser refitter")) return nullptr;
    return static_cast<IParserRefitter *>(new ParserRefitter(static_cast<Refitter *>((IRefitter *)r), (ILogger *)l));
}
#endif
EXPORT bool initLibNvInferPlugins(void *logger, const char *space) {
    called("", __func__);
    if (!logger || *space) broken("the standard plugins have no namespace");
    standard_plugins = true;
    return !fault("plugins");
}
EXPORT int getNvOnnxParserVersion() { return 1; }
