/* A TensorRT library that answers as it is told, for one release. Slot numbers come from slots.h, which the test writes from
   the facts in fixtures/abi; a call to any other slot ends the process. -D switches choose what goes wrong. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "slots.h"

#define EXPORT __attribute__((visibility("default")))
#define SLOTS 128

#ifdef WIDE
typedef int64_t Extent;
#else
typedef int32_t Extent;
#endif
typedef struct { int32_t rank; Extent d[8]; } Dims;
typedef struct { int32_t type; const void *values; int64_t count; } Weights;
typedef struct { const char *kind; int32_t major, minor; } Info;
typedef void (*Fn)(void);

/* A handle { vtable, mImpl } and what it points to, in one. */
typedef struct Object {
    Fn *handle_vtable;
    struct Object *impl; /* mImpl, at offset 8: points to `vtable` below */
    Fn *vtable;
    struct Object *parent;
    int children;
    const char *kind;
} Object;

static int live_objects, violations;
static void *logger;

EXPORT int fake_live(void) { return live_objects; }
EXPORT int fake_violations(void) { return violations; }

static void trap(void) {
    fprintf(stderr, "fake TensorRT: a slot was called that this release does not have there\n");
    abort();
}

static void say(int severity, const char *text) {
    Fn *table = *(Fn **)logger;
#ifdef VERSIONED_LOGGER
    Info info = ((Info(*)(void *))table[1])(logger);
    if (((int32_t(*)(void *))table[0])(logger) != 0 || strcmp(info.kind, "ILogger") || info.major != 1) violations++;
    ((void (*)(void *, int32_t, const char *))table[4])(logger, severity, text);
#else
    ((void (*)(void *, int32_t, const char *))table[0])(logger, severity, text);
#endif
}

static Object *object_of(void *impl) { return (Object *)((char *)impl - offsetof(Object, vtable)); }

static void delete_object(Object *o) {
    if (o->children) violations++;
    if (o->parent) o->parent->children--;
    live_objects--;
    memset(o, 0xdd, sizeof *o);
    free(o);
}

static Fn handle_vtable[] = {trap, (Fn)delete_object};

static Object *make(Fn *vtable, Object *parent, const char *kind) {
    Object *o = calloc(1, sizeof *o);
    o->handle_vtable = handle_vtable;
    o->impl = (Object *)&o->vtable;
    o->vtable = vtable;
    o->parent = parent;
    o->kind = kind;
    if (parent) parent->children++;
    live_objects++;
    return o;
}

#define TABLE(name) static Fn name[SLOTS]
TABLE(builder_table); TABLE(config_table); TABLE(network_table); TABLE(layer_table); TABLE(tensor_table); TABLE(profile_table);
TABLE(memory_table); TABLE(runtime_table); TABLE(engine_table); TABLE(context_table); TABLE(refitter_table);
TABLE(parser_table); TABLE(error_table); TABLE(cache_table); TABLE(serialization_table); TABLE(inspector_table);

/* --- memory --- */
static const char *plan_bytes = "fake plan";
static void *memory_data(void *this) { (void)this; return (void *)plan_bytes; }
static size_t memory_size(void *this) { (void)this; return strlen(plan_bytes); }
static Object *memory(void) { return make(memory_table, NULL, "memory"); }

/* --- network --- */
static Object input_tensor = {handle_vtable, (Object *)&input_tensor.vtable, tensor_table, NULL, 0, "tensor"};
static int32_t one(void *this) { (void)this; return 1; }
static void *get_input(void *this, int32_t i) { (void)this; return i == 0 ? &input_tensor : NULL; }
static Object sum = {handle_vtable, (Object *)&sum.vtable, tensor_table, NULL, 0, "sum"};
static const char *tensor_name(void *this) { return object_of(this) == &sum ? "sum" : "x"; }
static Dims dynamic_shape(void) { Dims d = {2, {-1, 4}}; return d; }
static Dims tensor_dims(void *this) { (void)this; return dynamic_shape(); }
static int32_t tensor_type(void *this) { (void)this; return 0; }
static _Bool no(void *this) { (void)this; return 0; }
/* Two layers; the first reads x and an input that is left out, and makes a sum. */
static Object first_layer = {handle_vtable, (Object *)&first_layer.vtable, layer_table, NULL, 0, "layer"};
static void *get_layer(void *this, int32_t i) { (void)this; return i == 0 ? &first_layer : NULL; }
static void *layer_input(void *this, int32_t i) { (void)this; return i == 1 ? &input_tensor : NULL; }
static void *layer_output(void *this, int32_t i) { (void)this; return i == 0 ? &sum : NULL; }
static int32_t precision = -1, output_type = -1;
static void set_precision(void *this, int32_t type) { (void)this; precision = type; }
static void set_output_type(void *this, int32_t i, int32_t type) { (void)this; if (!i) output_type = type; }
EXPORT int fake_pinned(void) { return 10 * (precision + 1) + output_type + 1; }
static _Bool mark(void *this, const char *name) { (void)this; return strcmp(name, "w") == 0; }

/* --- profile and config --- */
static Object profile = {handle_vtable, (Object *)&profile.vtable, profile_table, NULL, 0, "profile"};
static int profile_calls;
#ifdef WIDE
static _Bool set_dimensions(void *this, const char *name, int32_t which, const Dims *d) {
    Dims dims = *d;
#else
static _Bool set_dimensions(void *this, const char *name, int32_t which, Dims dims) {
#endif
    (void)this;
    profile_calls++;
#ifdef PROFILE_FALSE
    say(1, "profile refused");
    return 0;
#endif
    return !strcmp(name, "x") && dims.rank == 2 && dims.d[0] == which + 1 && dims.d[1] == 4;
}
static uint64_t flags;
static void set_flag(void *this, int32_t f) { (void)this; flags |= 1ull << f; }
static void clear_flag(void *this, int32_t f) { (void)this; flags &= ~(1ull << f); }
static int32_t add_profile(void *this, void *p) { (void)this; return p == &profile && profile_calls == 3 ? 0 : -1; }
static void take_int(void *this, int32_t n) { (void)this; (void)n; }
static _Bool take_int_ok(void *this, int32_t n) { (void)this; return n > 0; }
static _Bool take_ints_ok(void *this, int32_t a, int32_t b) { (void)this; return a > 0 && b >= 0; }
static void take_pool(void *this, int32_t pool, size_t n) { (void)this; if (pool || !n) violations++; }
static void *monitor;
static void set_monitor(void *this, void *m) { (void)this; monitor = m; }
static void *create_cache(void *this, const void *bytes, size_t n) {
    (void)bytes;
    return n ? NULL : make(cache_table, object_of(this), "cache");
}
static _Bool set_cache(void *this, void *cache, _Bool lenient) { (void)this; return cache && !lenient; }
static void *serialize_cache(void *this) { (void)this; return memory(); }

static void run_monitor(void) {
    if (!monitor) return;
    Fn *t = *(Fn **)monitor;
    Info info = ((Info(*)(void *))t[1])(monitor);
    if (strcmp(info.kind, "IProgressMonitor")) violations++;
    ((void (*)(void *, const char *, const char *, int32_t))t[4])(monitor, "Building", NULL, 1);
    if (!((_Bool(*)(void *, const char *, int32_t))t[5])(monitor, "Building", 0)) violations++;
    ((void (*)(void *, const char *))t[6])(monitor, "Building");
}

/* --- builder --- */
static void *create_config(void *this) { return make(config_table, object_of(this), "config"); }
static void *create_network(void *this, uint32_t bits) {
    (void)bits;
#ifdef NETWORK_NULL
    say(1, "no network today");
    return NULL;
#endif
    return make(network_table, object_of(this), "network");
}
static void *create_profile(void *this) { (void)this; profile_calls = 0; return &profile; }
static void *build(void *this, void *network, void *config) {
    (void)this;
    if (strcmp(((Object *)network)->kind, "network") || strcmp(((Object *)config)->kind, "config")) violations++;
    run_monitor();
    say(2, "a warning on the way");
#ifdef BUILD_NULL
    say(1, "first trouble");
    say(0, "Could not find any implementation for node conv_17");
    return NULL;
#endif
    return memory();
}
static _Bool build_to_stream(void *this, void *network, void *config, void *writer) {
    Object *m = build(this, network, config);
    if (!m) return 0;
    delete_object(m);
    Fn *t = *(Fn **)writer;
    int64_t n = (int64_t)strlen(plan_bytes);
    return ((int64_t(*)(void *, const void *, int64_t))t[4])(writer, plan_bytes, n) == n;
}

/* --- runtime, engine, context --- */
static void *deserialize(void *this, const void *data, size_t n) {
#ifdef DESERIALIZE_NULL
    say(1, "Version tag does not match. Current Version: 0, Serialized Engine Version: 228");
    return NULL;
#endif
    return n == strlen(plan_bytes) && !memcmp(data, plan_bytes, n) ? make(engine_table, object_of(this), "engine") : NULL;
}
static _Bool is_refittable(void *this) {
    (void)this;
#ifdef NOT_REFITTABLE
    return 0;
#else
    return 1;
#endif
}
static int32_t two(void *this) { (void)this; return 2; }
static const char *io_name(void *this, int32_t i) { (void)this; return i == 0 ? "x" : i == 1 ? "y" : NULL; }
static Dims io_shape(void *this, const char *name) {
    (void)this; (void)name;
#ifdef NO_SHAPE
    Dims d = {-1, {0}};
    return d;
#else
    return dynamic_shape();
#endif
}
static int32_t io_type(void *this, const char *name) {
    (void)this; (void)name;
#ifdef ODD_TYPE
    return 99;
#else
    return 0;
#endif
}
static int32_t io_mode(void *this, const char *name) { (void)this; return !strcmp(name, "x") ? 1 : 2; }
static _Bool on_host(void *this, const char *name) { (void)this; (void)name; return 0; }
static Dims profile_shape(void *this, const char *name, int32_t p, int32_t which) {
    (void)this; (void)name;
    Dims d = {2, {which + 1, 4}};
    if (p) d.rank = -1;
    return d;
}
static void *serialize(void *this) { (void)this; return memory(); }
static int32_t serialization_flag = -1;
static _Bool set_serialization_flag(void *this, int32_t f) { (void)this; serialization_flag = f; return 1; }
static void *create_serialization(void *this) { return make(serialization_table, object_of(this), "serialization"); }
static void *serialize_with(void *this, void *config) {
    (void)this;
    if (strcmp(((Object *)config)->kind, "serialization") || serialization_flag != 2) violations++;
    return memory();
}
static void *create_inspector(void *this) { return make(inspector_table, object_of(this), "inspector"); }
static const char *information(void *this, int32_t format) { (void)this; return format == 1 ? "{\"Layers\":[]}" : NULL; }
static void *create_context(void *this) {
#ifdef CONTEXT_NULL
    say(1, "Assertion mOptimizationProfile >= 0 failed.");
    return NULL;
#endif
    return make(context_table, object_of(this), "context");
}
static Extent batch;
static _Bool set_input_shape(void *this, const char *name, const Dims *d) {
    (void)this;
    batch = d->d[0];
    return !strcmp(name, "x") && d->rank == 2 && d->d[0] >= 1 && d->d[0] <= 3 && d->d[1] == 4;
}
static Dims context_shape(void *this, const char *name) {
    (void)this; (void)name;
    Dims d = {2, {0, 4}};
    d.d[0] = batch;
    return d;
}
static _Bool set_address(void *this, const char *name, void *p) { (void)this; return io_mode(NULL, name) && p; }
static int32_t infer_shapes(void *this, int32_t n, const char **names) { (void)this; return n || names ? -1 : 0; }
static _Bool enqueue(void *this, void *stream) {
    (void)this;
#ifdef ENQUEUE_FALSE
    say(1, "Cuda Runtime (an illegal memory access was encountered)");
    return 0;
#endif
    return stream == NULL;
}

/* --- refitter: a convolution's w and b belong together, c stands alone, one weight has no name --- */
static const char *all_names[] = {"w", "b", "c", NULL};
static int given[3];
static int32_t all_weights(void *this, int32_t n, const char **out) {
    (void)this;
    for (int i = 0; out && i < n && i < 4; i++) out[i] = all_names[i];
    return 4;
}
static int32_t missing_weights(void *this, int32_t n, const char **out) {
    (void)this;
    int missing = given[0] != given[1];
    if (missing && out && n > 0) out[0] = given[0] ? "b" : "w";
    return missing;
}
static _Bool set_named(void *this, const char *name, Weights w) {
    (void)this;
#ifdef SET_FALSE
    say(1, "count of weights does not match");
    return 0;
#endif
    for (int i = 0; i < 3; i++) {
        if (!strcmp(name, all_names[i])) {
            given[i] = w.type == 0 && w.count == 4 && ((const float *)w.values)[0] == 7.0f;
            return given[i];
        }
    }
    return 0;
}
static Weights prototype(void *this, const char *name) {
    (void)this;
    Weights w = {0, NULL, strcmp(name, "c") ? 4 : -1};
    return w;
}
static _Bool commit(void *this) {
    (void)this;
#ifdef REFIT_FALSE
    say(1, "refit went wrong");
    return 0;
#endif
    return given[0] == given[1];
}

/* --- parser: plain virtual classes --- */
typedef struct { Fn *vtable; } Plain;
static Plain parse_error = {error_table};
static _Bool parsed;
static void *observer; /* ends with the parse that it was given for */
static void set_observer(void *this, void *o) { (void)this; observer = o; }
static void delete_parser(Plain *p) { if (observer) violations++; live_objects--; free(p); }
static _Bool parse_file(void *this, const char *path, int verbosity) {
    (void)this;
    parsed = path[0] && verbosity == 2;
#ifdef PARSE_FALSE
    return 0;
#elif defined(PARSE_SILENT)
    say(1, "Failed to parse the ONNX model");
    return 0;
#else
    return parsed;
#endif
}
static _Bool parse_bytes(void *this, const void *model, size_t n, const char *path) {
    (void)model;
    return n && parse_file(this, path, 2);
}
static int nb_errors(void *this) {
    (void)this;
#ifdef PARSE_FALSE
    return 2;
#else
    return 0;
#endif
}
static void *get_error(void *this, int i) { (void)this; return i < 2 ? &parse_error : NULL; }
static int zero(void *this) { (void)this; return 0; }
static int line(void *this) { (void)this; return 5031; }
static const char *desc(void *this) { (void)this; return "Assertion failed: axes.allValuesKnown()\n"; }
static const char *file(void *this) { (void)this; return "/src/onnx/onnxOpImporters.cpp"; }
static const char *node_name(void *this) { (void)this; return "/mid/Slice_3"; }
static const char *node_operator(void *this) { (void)this; return "Slice"; }

/* --- tables --- */
#define PUT(table, class, method, f) table[SLOT_##class##_##method] = (Fn)(f)
static void fill(void) {
    Fn *all[] = {builder_table, config_table, network_table, layer_table, tensor_table, profile_table, memory_table, runtime_table,
                 engine_table, context_table, refitter_table, parser_table, error_table, cache_table, serialization_table,
                 inspector_table};
    for (size_t t = 0; t < sizeof all / sizeof *all; t++)
        for (int i = 0; i < SLOTS; i++) all[t][i] = trap;
    PUT(builder_table, VBuilder, createBuilderConfig, create_config);
    PUT(builder_table, VBuilder, createNetworkV2, create_network);
    PUT(builder_table, VBuilder, createOptimizationProfile, create_profile);
    PUT(builder_table, VBuilder, buildSerializedNetwork, build);
    PUT(builder_table, VBuilder, setMaxThreads, take_int_ok);
#ifdef SLOT_VBuilder_buildSerializedNetworkToStream
    PUT(builder_table, VBuilder, buildSerializedNetworkToStream, build_to_stream);
#endif
    PUT(config_table, VBuilderConfig, setFlag, set_flag);
    PUT(config_table, VBuilderConfig, clearFlag, clear_flag);
    PUT(config_table, VBuilderConfig, addOptimizationProfile, add_profile);
    PUT(config_table, VBuilderConfig, setProfilingVerbosity, take_int);
    PUT(config_table, VBuilderConfig, setMemoryPoolLimit, take_pool);
    PUT(config_table, VBuilderConfig, createTimingCache, create_cache);
    PUT(config_table, VBuilderConfig, setTimingCache, set_cache);
#ifdef SLOT_VBuilderConfig_setBuilderOptimizationLevel
    PUT(config_table, VBuilderConfig, setBuilderOptimizationLevel, take_int);
    PUT(config_table, VBuilderConfig, setHardwareCompatibilityLevel, take_int);
#endif
#ifdef SLOT_VBuilderConfig_setProgressMonitor
    PUT(config_table, VBuilderConfig, setProgressMonitor, set_monitor);
#endif
#ifdef SLOT_VBuilderConfig_setComputeCapability
    PUT(config_table, VBuilderConfig, setNbComputeCapabilities, take_int_ok);
    PUT(config_table, VBuilderConfig, setComputeCapability, take_ints_ok);
#endif
    PUT(cache_table, VTimingCache, serialize, serialize_cache);
    PUT(network_table, VNetworkDefinition, getNbInputs, one);
    PUT(network_table, VNetworkDefinition, getInput, get_input);
    PUT(network_table, VNetworkDefinition, getNbLayers, two);
    PUT(network_table, VNetworkDefinition, getLayer, get_layer);
#ifdef SLOT_VLayer_setPrecision
    PUT(layer_table, VLayer, getNbInputs, two);
    PUT(layer_table, VLayer, getInput, layer_input);
    PUT(layer_table, VLayer, getNbOutputs, one);
    PUT(layer_table, VLayer, getOutput, layer_output);
    PUT(layer_table, VLayer, setPrecision, set_precision);
    PUT(layer_table, VLayer, setOutputType, set_output_type);
#endif
#ifdef SLOT_VNetworkDefinition_markWeightsRefittable
    PUT(network_table, VNetworkDefinition, markWeightsRefittable, mark);
#endif
    PUT(tensor_table, VTensor, getName, tensor_name);
    PUT(tensor_table, VTensor, getDimensions, tensor_dims);
    PUT(tensor_table, VTensor, getType, tensor_type);
    PUT(tensor_table, VTensor, isShapeTensor, no);
    PUT(profile_table, VOptimizationProfile, setDimensions, set_dimensions);
    PUT(memory_table, VHostMemory, data, memory_data);
    PUT(memory_table, VHostMemory, size, memory_size);
    PUT(runtime_table, VRuntime, deserializeCudaEngine, deserialize);
    PUT(engine_table, VCudaEngine, serialize, serialize);
    PUT(engine_table, VCudaEngine, createExecutionContext, create_context);
    PUT(engine_table, VCudaEngine, isRefittable, is_refittable);
    PUT(engine_table, VCudaEngine, getNbIOTensors, two);
    PUT(engine_table, VCudaEngine, getIOTensorName, io_name);
    PUT(engine_table, VCudaEngine, getTensorShape, io_shape);
    PUT(engine_table, VCudaEngine, getTensorDataType, io_type);
    PUT(engine_table, VCudaEngine, getTensorIOMode, io_mode);
    PUT(engine_table, VCudaEngine, isShapeInferenceIO, on_host);
    PUT(engine_table, VCudaEngine, getProfileShape, profile_shape);
    PUT(engine_table, VCudaEngine, getNbOptimizationProfiles, one);
    PUT(engine_table, VCudaEngine, getNbLayers, two);
    PUT(engine_table, VCudaEngine, createEngineInspector, create_inspector);
    PUT(inspector_table, VEngineInspector, getEngineInformation, information);
#ifdef SLOT_VCudaEngine_serializeWithConfig
    PUT(engine_table, VCudaEngine, createSerializationConfig, create_serialization);
    PUT(engine_table, VCudaEngine, serializeWithConfig, serialize_with);
    PUT(serialization_table, VSerializationConfig, setFlag, set_serialization_flag);
#endif
    PUT(context_table, VExecutionContext, setInputShape, set_input_shape);
    PUT(context_table, VExecutionContext, getTensorShape, context_shape);
    PUT(context_table, VExecutionContext, setTensorAddress, set_address);
    PUT(context_table, VExecutionContext, inferShapes, infer_shapes);
    PUT(context_table, VExecutionContext, enqueueV3, enqueue);
    PUT(refitter_table, VRefitter, refitCudaEngine, commit);
    PUT(refitter_table, VRefitter, setNamedWeights, set_named);
    PUT(refitter_table, VRefitter, getMissingWeights, missing_weights);
    PUT(refitter_table, VRefitter, getAllWeights, all_weights);
    PUT(refitter_table, VRefitter, setMaxThreads, take_int_ok);
#ifdef SLOT_VRefitter_getWeightsPrototype
    PUT(refitter_table, VRefitter, getWeightsPrototype, prototype);
#endif
    PUT(parser_table, IParser, parse, parse_bytes);
    PUT(parser_table, IParser, parseFromFile, parse_file);
    PUT(parser_table, IParser, getNbErrors, nb_errors);
    PUT(parser_table, IParser, getError, get_error);
    PUT(parser_table, IParser, deleting_dtor, delete_parser);
#if defined(SLOT_IParser_setFlag) && VERSION != 8600
    PUT(parser_table, IParser, setFlag, take_int);
#endif
#ifdef SLOT_IParser_setRefitObserver
    PUT(parser_table, IParser, setRefitObserver, set_observer);
#endif
    PUT(error_table, IParserError, desc, desc);
    PUT(error_table, IParserError, file, file);
    PUT(error_table, IParserError, line, line);
    PUT(error_table, IParserError, node, zero);
#ifdef SLOT_IParserError_nodeName
    PUT(error_table, IParserError, nodeName, node_name);
    PUT(error_table, IParserError, nodeOperator, node_operator);
#endif
}

/* --- what the library and its parser export --- */
#ifndef PARSER
#ifndef NO_VERSION
EXPORT int32_t getInferLibVersion(void) { return VERSION; }
#endif
#ifndef NO_BUILDER
EXPORT void *createInferBuilder_INTERNAL(void *l, int32_t version) {
    logger = l;
    fill();
#ifdef BUILDER_NULL
    say(1, "CUDA initialization failure with error: 35");
    return NULL;
#endif
    return version == VERSION ? make(builder_table, NULL, "builder") : NULL;
}
#endif
#ifndef NO_RUNTIME
EXPORT void *createInferRuntime_INTERNAL(void *l, int32_t version) {
    logger = l;
    fill();
#ifdef RUNTIME_NULL
    return NULL;
#endif
    return version == VERSION ? make(runtime_table, NULL, "runtime") : NULL;
}
#endif
EXPORT void *createInferRefitter_INTERNAL(void *engine, void *l, int32_t version) {
    logger = l;
    (void)version;
    memset(given, 0, sizeof given);
#ifdef REFITTER_NULL
    say(1, "the engine is not refittable");
    return NULL;
#endif
    return make(refitter_table, engine, "refitter");
}
#else
#ifndef NO_PARSER
EXPORT void *createNvOnnxParser_INTERNAL(void *network, void *l, int32_t version) {
    logger = l;
    fill();
    (void)network;
    (void)version;
#ifdef PARSER_NULL
    return NULL;
#endif
    Plain *p = malloc(sizeof *p);
    p->vtable = parser_table;
    live_objects++;
    return p;
}
#endif
EXPORT int getNvOnnxParserVersion(void) { return 100; }
#endif
