#!/usr/bin/env python3
"""Writes src/engine/tensorrt/releases/numbers.rs from fixtures/tensorrt_releases/*.json.

usage: scripts/gen-tensorrt-releases.py [FOLDER]     (FOLDER: one JSON file for every release, read off the vendor's public headers, and
                                        bindings.json; where it is given, fixtures/tensorrt_releases is written from it first)
       scripts/gen-tensorrt-releases.py --unpack FOLDER     (writes such a FOLDER from fixtures/tensorrt_releases: a new release is one
                                        more file in it)

Every release has a column of its own: slots move inside a major (10.8, 9.0), so no release stands for another. The
fixtures keep each distinct table of a class once, whole and in order of declaration, with the releases that have it.
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures/tensorrt_releases"

# Table group -> (C++ class, methods); a method may carry a part of its parameter list to tell overloads apart.
CLASSES = {
    "builder": ("VBuilder", """createBuilderConfig createNetworkV2 createOptimizationProfile buildSerializedNetwork
        buildSerializedNetworkToStream setMaxThreads"""),
    "config": ("VBuilderConfig", """setFlag clearFlag addOptimizationProfile setProfilingVerbosity createTimingCache
        setTimingCache setMemoryPoolLimit setBuilderOptimizationLevel setHardwareCompatibilityLevel
        setProgressMonitor setNbComputeCapabilities setComputeCapability setPluginsToSerialize"""),
    "timing_cache": ("VTimingCache", "serialize"),
    "network": ("VNetworkDefinition", """getNbInputs getInput getNbOutputs getOutput getNbLayers getLayer
        markWeightsRefittable"""),
    "layer": ("VLayer", "getNbInputs getInput getNbOutputs getOutput setPrecision setOutputType"),
    "tensor": ("VTensor", "getName getDimensions getType isShapeTensor"),
    "profile": ("VOptimizationProfile", "setDimensions"),
    "host_memory": ("VHostMemory", "data size"),
    "runtime": ("VRuntime", "deserializeCudaEngine(constvoid*, setEngineHostCodeAllowed"),
    "engine": ("VCudaEngine", """serialize createExecutionContext isRefittable getNbIOTensors getIOTensorName
        getTensorShape getTensorDataType getTensorIOMode getTensorLocation getProfileShape getNbOptimizationProfiles
        createSerializationConfig serializeWithConfig createEngineInspector getNbLayers getStreamableWeightsSize
        setWeightStreamingBudgetV2"""),
    "serialization_config": ("VSerializationConfig", "setFlag clearFlag"),
    "inspector": ("VEngineInspector", "getEngineInformation"),
    "context": ("VExecutionContext", """setInputShape getTensorShape setTensorAddress inferShapes setOutputAllocator
        enqueueV3 setOptimizationProfileAsync setProfiler"""),
    "refitter": ("VRefitter", """refitCudaEngine setNamedWeights getMissingWeights getAllWeights setMaxThreads
        getWeightsPrototype getNamedWeights getWeightsLocation"""),
    "parser": ("IParser", "parse parseFromFile getNbErrors getError setFlag setRefitObserver ~deleting_dtor"),
    "parser_refitter": ("IParserRefitter", "refitFromFile getNbErrors getError ~deleting_dtor"),
    "parser_error": ("IParserError", "desc file line node nodeName nodeOperator"),
}
# Classes of which we make objects: the forms below and releases/tests.rs compare them with all their slots.
CALLBACKS = ["ILogger", "IProgressMonitor", "IStreamWriter", "IOutputAllocator", "IRefitterObserver", "IVersionedInterface", "IProfiler"]
# Table group -> (C++ enum, enumerators).
ENUMS = {
    "flag": ("BuilderFlag", """kFP16 kBF16 kINT8 kTF32 kREFIT kREFIT_IDENTICAL kREFIT_INDIVIDUAL kSTRIP_PLAN
        kSPARSE_WEIGHTS kVERSION_COMPATIBLE kPREFER_PRECISION_CONSTRAINTS kWEIGHT_STREAMING"""),
    "network_flag": ("NetworkDefinitionCreationFlag", "kEXPLICIT_BATCH kSTRONGLY_TYPED"),
    "data_type": ("DataType", "kFLOAT kHALF kINT8 kINT32 kBOOL kUINT8 kFP8 kBF16 kINT64 kINT4 kFP4 kE8M0"),
    "selector": ("OptProfileSelector", "kMIN kOPT kMAX"),
    "io_mode": ("TensorIOMode", "kINPUT"),
    "location": ("TensorLocation", "kHOST"),
    "pool": ("MemoryPoolType", "kWORKSPACE"),
    "verbosity": ("ProfilingVerbosity", "kLAYER_NAMES_ONLY kNONE kDETAILED"),
    "hardware": ("HardwareCompatibilityLevel", "kAMPERE_PLUS kSAME_COMPUTE_CAPABILITY"),
    "compute_capability": ("ComputeCapability", "kSM75 kSM80 kSM86 kSM89 kSM120 kSM121"),
    "serialization_flag": ("SerializationFlag", "kEXCLUDE_WEIGHTS kINCLUDE_REFIT"),
    "allocation": ("ExecutionContextAllocationStrategy", "kSTATIC"),
    "layer_format": ("LayerInformationFormat", "kJSON"),
    "parser_flag": ("nvonnxparser::OnnxParserFlag", "kNATIVE_INSTANCENORM"),
}
# Enumerators that the tests' stand-in needs beside those.
MORE_ENUMS = ["ErrorCode", "LayerType", "APILanguage", "ILogger::Severity", "nvonnxparser::ErrorCode",
              "nvonnxparser::RefitTransformKind"]


def numbers(version):
    return [int(p) for p in version.split(".")]


def product(name):
    return name.split("-")[0]


def slots_of(release, cls):
    table = release["vtables"].get(cls, {})
    slots = [table[k] for k in sorted(table)]
    if list(sorted(table)) != [f"{i:02d}" for i in range(len(slots))]:
        sys.exit(f"{release['version']}: {cls} has a gap")
    return slots


def grouped(releases, get):
    """[{"in": names, "is": value}] of the distinct values that `get` gives, in order of appearance."""
    seen = {}
    for r in releases:
        value = get(r)
        if value:
            seen.setdefault(json.dumps(value), []).append(r["version"])
    return [{"in": " ".join(names), "is": json.loads(text)} for text, names in seen.items()]


def lines(value, depth):
    """JSON with one line an entry at `depth` levels."""
    if depth == 0 or not isinstance(value, (dict, list)) or not value:
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, dict):
        body = [f"{json.dumps(k)}:{lines(v, depth - 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(body) + "\n}"
    return "[\n" + ",\n".join(lines(v, depth - 1) for v in value) + "\n]"


# Headers that do not describe the library that was shipped. The wheel of 8.6.0 (8.6.0.12) has a parser that was built from later sources
# than the tagged header: the vtable of `onnx2trt::ModelImporter` in its `libnvonnxparser.so.8` has 8.5's entries, then
# getUsedVCPluginLibraries, and none for flags. Deleting a parser through the header's slot 15 crashes (seen on an H200).
SHIPPED = {("trt-8.6.0", "IParser"): ("trt-8.5", ["const char *const * getUsedVCPluginLibraries(int64_t &) const"])}


def corrected(releases):
    for r in releases:
        for (name, cls), (like, more) in SHIPPED.items():
            if r["version"] == name:
                other = next(o for o in releases if o["version"] == like)["vtables"][cls]
                slots = [other[k] for k in sorted(other)] + more
                r["vtables"][cls] = {f"{i:02d}": s for i, s in enumerate(slots)}
                r["note"] = f"{cls}: as the shipped library has it, not the tagged header"
    return releases


def pack(folder):
    if not list(folder.glob("*-*.json")) or not (folder / "bindings.json").exists():
        sys.exit(f"{folder} has no releases; --unpack {folder} writes those that are known")
    names = sorted((p.stem for p in folder.glob("*-*.json")), key=lambda n: (product(n) == "rtx", numbers(n.split("-")[1])))
    releases = [json.loads((folder / f"{n}.json").read_text()) for n in names]
    # `8.5` is 8.5.3 and so comes after `8.5.1`.
    releases.sort(key=lambda r: (product(r["version"]) == "rtx", numbers(r["releases"][0])))
    releases = corrected(releases)
    classes = [c for c, _ in CLASSES.values()] + CALLBACKS
    enums = [e for e, _ in ENUMS.values()] + MORE_ENUMS
    structs = sorted({s for r in releases for s in r["structs"]})
    out = {
        "releases": [{k: r[k] for k in ("version", "releases", "note") if k in r} for r in releases],
        "vtables": {c: grouped(releases, lambda r, c=c: slots_of(r, c)) for c in classes},
        "enums": {e: grouped(releases, lambda r, e=e: r["enums"].get(e)) for e in enums},
        "structs": {s: grouped(releases, lambda r, s=s: r["structs"].get(s)) for s in structs},
        "handle_layout": grouped(releases, lambda r: r["handle_layout"]),
        "functions": grouped(releases, lambda r: r["functions"]),
    }
    FIXTURES.mkdir(exist_ok=True)
    for old in FIXTURES.glob("*.json"):
        old.unlink()
    (FIXTURES / "interface.json").write_text(lines(out, 3) + "\n")
    source = json.loads((folder / "bindings.json").read_text())
    bound = [{"version": v, "slots": t} for v, t in source.items() if v != "about"]
    out = {"about": source["about"],
           "slots": {c: grouped(bound, lambda r, c=c: r["slots"].get(c)) for c in classes
                     if any(c in r["slots"] for r in bound)}}
    (FIXTURES / "bindings.json").write_text(lines(out, 3) + "\n")


def unpack(folder):
    """The inverse of `pack`."""
    data = json.loads((FIXTURES / "interface.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    for about in data["releases"]:
        name = about["version"]
        own = {k: {n: spread(g)[name] for n, g in data[k].items() if name in spread(g)} for k in ("vtables", "enums", "structs")}
        own["vtables"] = {c: {f"{i:02d}": s for i, s in enumerate(slots)} for c, slots in own["vtables"].items()}
        whole = {k: spread(data[k])[name] for k in ("handle_layout", "functions") if name in spread(data[k])}
        empty = {"handle_layout": None, "functions": None}
        (folder / f"{name}.json").write_text(json.dumps({**about, **own, **empty, **whole}, indent=1) + "\n")
    bound = json.loads((FIXTURES / "bindings.json").read_text())
    slots = {c: spread(g) for c, g in bound["slots"].items()}
    versions = {v: None for by in slots.values() for v in by}
    out = {v: {c: by[v] for c, by in slots.items() if v in by} for v in versions}
    (folder / "bindings.json").write_text(json.dumps({"about": bound["about"], **out}, indent=1) + "\n")


def spread(groups):
    return {name: g["is"] for g in groups for name in g["in"].split()}


def method_name(signature):
    if signature.endswith(" dtor"):
        return "~" + signature.replace(" ", "_")
    return re.search(r"(\w+)\(", signature).group(1)


def find(slots, want):
    """Slot number of `want`, or None."""
    want, _, args = want.partition("(")
    found = [i for i, s in enumerate(slots or [])
             if method_name(s) == want and (not args or "(" + args in s.replace(" ", ""))]
    if len(found) > 1:
        sys.exit(f"{want} is ambiguous: {found}")
    return found[0] if found else None


def snake(want):
    name = want.partition("(")[0].lstrip("~")
    name = name.removeprefix("k") if re.match(r"k[A-Z]", name) else name
    if re.fullmatch(r"[A-Z0-9_]+", name):
        return "r#static" if name == "STATIC" else name.lower()
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def has(slots, text):
    return any(text in s for s in slots or [])


def column(data, name, of):
    """A release's row of `COLUMNS`: how its calls and callbacks are formed."""
    wide = "nvinfer1::Dims64" in of["structs"] and name in of["structs"]["nvinfer1::Dims64"]
    vtable = lambda cls: of["vtables"][cls].get(name)
    if has(vtable("VOptimizationProfile"), "OptProfileSelector, Dims)") == wide:
        sys.exit(f"{name}: 32-bit Dims go by value and 64-bit ones by reference; this does neither")
    factory = has(vtable("VRuntime"), "std::size_t, IPluginFactory *)")
    strategy = has(vtable("VCudaEngine"), "createExecutionContext(ExecutionContextAllocationStrategy)")
    if factory == strategy or not (strategy or has(vtable("VCudaEngine"), "createExecutionContext()")):
        sys.exit(f"{name}: the plugin factory goes where the allocation strategy comes; this does neither")
    versioned = find(vtable("ILogger"), "log") == 4
    monitor = has(vtable("IProgressMonitor"), "getInterfaceInfo")
    profiler = "Versioned" if find(vtable("IProfiler"), "reportLayerTime") == 4 else "Plain"
    allocator = vtable("IOutputAllocator")
    form = {(1, None): "Plain", (4, 5): "Versioned", (None, 4): "AsyncOnly"}[
        find(allocator, "reallocateOutput"), find(allocator, "reallocateOutputAsync")]
    p, v = name.split("-")
    return (f'Column {{ product: Product::{"Rtx" if p == "rtx" else "TensorRt"}, '
            f'dims: DimsForm::{"Wide" if wide else "Narrow"}, logger: LoggerForm::{"Versioned" if versioned else "Plain"}, '
            f'monitor: MonitorForm::{"Versioned" if monitor else "Plain"}, '
            f'calls: CallForm::{"Strategy" if strategy else "Factory"}, allocator: AllocatorForm::{form}, profiler: ProfilerForm::{profiler} }}, // {v}')


def main():
    if sys.argv[1:2] == ["--unpack"]:
        return unpack(Path(sys.argv[2]))
    if len(sys.argv) > 1:
        pack(Path(sys.argv[1]))
    data = json.loads((FIXTURES / "interface.json").read_text())
    of = {k: {n: spread(g) for n, g in data[k].items()} for k in ("vtables", "enums", "structs")}
    names = [r["version"] for r in data["releases"]]
    out = ["//! The numbers of every release whose headers were read. Written by scripts/gen-tensorrt-releases.py; do not edit.", "",
           "use super::{ABSENT as XX, AllocatorForm, CallForm, Column, DimsForm, Entry, LoggerForm, MonitorForm, Product, ProfilerForm, Table, Version};", "",
           "/// Number of distinct tables.", f"pub(super) const COUNT: usize = {len(names)};", "",
           "/// How each of them calls.", "#[rustfmt::skip]", "pub(super) static COLUMNS: [Column; COUNT] = ["]
    out += ["    " + column(data, n, of) for n in names]
    out += ["];", "", "/// The releases whose headers give exactly the numbers of a column, by product and age.", "#[rustfmt::skip]",
            "pub(super) static RELEASES: &[(Version, usize)] = &["]
    for i, r in enumerate(data["releases"]):
        out += [f"    (Version::new({', '.join(v.split('.'))}), {i})," for v in r["releases"]]
    out += ["];", "", "/// One row an entry, one number a column.", "#[rustfmt::skip]", "pub(super) static TABLE: Table = Table {"]
    for kind, groups, word in (("vtables", CLASSES, "Slots"), ("enums", ENUMS, "Values")):
        for group, (owner, wants) in groups.items():
            out.append(f"    {group}: super::{''.join(p.title() for p in group.split('_'))}{word} {{")
            for want in wants.split():
                table = of[kind].get(owner, {})
                get = (lambda n: find(table.get(n), want)) if kind == "vtables" else (lambda n: table.get(n, {}).get(want))
                row = ["XX" if get(n) is None else f"{get(n):2}" for n in names]
                if set(row) == {"XX"}:
                    sys.exit(f"no release has {owner}::{want}")
                out.append(f"        {snake(want)}: Entry([{', '.join(row)}]),")
            out.append("    },")
    out += ["};", ""]
    (ROOT / "src/engine/tensorrt/releases/numbers.rs").write_text("\n".join(out))


main()
