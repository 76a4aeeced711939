#!/usr/bin/env python3
"""Writes src/engine/tensorrt/abi/{v8,v10,v11,rtx1_3,rtx1_5}.rs and fixtures/abi/*.json.

usage: scripts/gen-abi.py FOLDER      (FOLDER holds trt-8.5.json … rtx-1.7.json, read off the vendor's public headers;
                                       fixtures/abi itself will do, since it is the part of them that is used)

A family is a run of releases whose tables only grow at the end; a slot or enumerator that not all of its members have
carries the first release in which it is known to be. Run `cargo fmt` afterwards.
"""
import json
import re
import sys
from pathlib import Path

FAMILIES = {
    "v8": ["trt-8.5", "trt-8.6"],
    "v10": ["trt-10.0", "trt-10.3", "trt-10.7", "trt-10.13", "trt-10.16"],
    "v11": ["trt-11.0", "trt-11.1", "trt-11.4"],
    "rtx1_3": ["rtx-1.3", "rtx-1.4"],
    "rtx1_5": ["rtx-1.5", "rtx-1.6", "rtx-1.7"],
}
TITLES = {
    "v8": "TensorRT 8.5 to 8.6",
    "v10": "TensorRT 10.x",
    "v11": "TensorRT 11.x",
    "rtx1_3": "TensorRT-RTX 1.3 to 1.4",
    "rtx1_5": "TensorRT-RTX 1.5 and later 1.x",
}

# Table group -> (C++ class, {field: method}); a method may carry a part of its parameter list to tell overloads apart.
CLASSES = {
    "builder": ("VBuilder", """createBuilderConfig createNetworkV2 createOptimizationProfile buildSerializedNetwork
        buildSerializedNetworkToStream setMaxThreads"""),
    "config": ("VBuilderConfig", """setFlag clearFlag addOptimizationProfile setProfilingVerbosity createTimingCache
        setTimingCache setMemoryPoolLimit setBuilderOptimizationLevel setHardwareCompatibilityLevel
        setProgressMonitor setNbComputeCapabilities setComputeCapability"""),
    "timing_cache": ("VTimingCache", "serialize"),
    "network": ("VNetworkDefinition", """getNbInputs getInput getNbOutputs getOutput getNbLayers getLayer
        markWeightsRefittable"""),
    "layer": ("VLayer", "getNbInputs getInput getNbOutputs getOutput setPrecision setOutputType"),
    "tensor": ("VTensor", "getName getDimensions getType isShapeTensor"),
    "profile": ("VOptimizationProfile", "setDimensions"),
    "host_memory": ("VHostMemory", "data size"),
    "runtime": ("VRuntime", "deserializeCudaEngine(constvoid*,"),
    "engine": ("VCudaEngine", """serialize createExecutionContext isRefittable getNbIOTensors getIOTensorName
        getTensorShape getTensorDataType getTensorIOMode isShapeInferenceIO getProfileShape getNbOptimizationProfiles
        createSerializationConfig serializeWithConfig createEngineInspector getNbLayers"""),
    "serialization_config": ("VSerializationConfig", "setFlag"),
    "inspector": ("VEngineInspector", "getEngineInformation"),
    "context": ("VExecutionContext", """setInputShape getTensorShape setTensorAddress
        inferShapes enqueueV3"""),
    "refitter": ("VRefitter", """refitCudaEngine setNamedWeights getMissingWeights getAllWeights setMaxThreads
        getWeightsPrototype"""),
    "parser": ("IParser", "parse parseFromFile getNbErrors getError setFlag setRefitObserver ~deleting_dtor"),
    "parser_error": ("IParserError", "desc file line node nodeName nodeOperator"),
}
# Classes of which we make objects: our tables are compared with all their slots by the test in abi/tests.rs.
CALLBACKS = ["ILogger", "IProgressMonitor", "IStreamWriter"]
# Table group -> (C++ enum, enumerators).
ENUMS = {
    "flag": ("BuilderFlag", """kFP16 kBF16 kINT8 kTF32 kREFIT kREFIT_IDENTICAL kREFIT_INDIVIDUAL kSTRIP_PLAN
        kSPARSE_WEIGHTS kVERSION_COMPATIBLE kPREFER_PRECISION_CONSTRAINTS"""),
    "network_flag": ("NetworkDefinitionCreationFlag", "kEXPLICIT_BATCH kSTRONGLY_TYPED"),
    "data_type": ("DataType", "kFLOAT kHALF kINT8 kINT32 kBOOL kUINT8 kFP8 kBF16 kINT64 kINT4 kFP4 kE8M0"),
    "selector": ("OptProfileSelector", "kMIN kOPT kMAX"),
    "io_mode": ("TensorIOMode", "kINPUT"),
    "pool": ("MemoryPoolType", "kWORKSPACE"),
    "verbosity": ("ProfilingVerbosity", "kLAYER_NAMES_ONLY kNONE kDETAILED"),
    "hardware": ("HardwareCompatibilityLevel", "kAMPERE_PLUS kSAME_COMPUTE_CAPABILITY"),
    "compute_capability": ("ComputeCapability", "kSM75 kSM80 kSM86 kSM89 kSM120 kSM121"),
    "serialization_flag": ("SerializationFlag", "kINCLUDE_REFIT"),
    "layer_format": ("LayerInformationFormat", "kJSON"),
    "parser_flag": ("nvonnxparser::OnnxParserFlag", "kNATIVE_INSTANCENORM"),
}
# What the headers do not show. (group, name) -> first release, as major*10000 + minor*100 + patch.
SINCE = {
    # In the 8.6.1 header, but 8.6.0's library has a shorter table and the call crashes.
    ("parser", "set_flag", "v8"): 80601,
    # Announced for 10.14; 10.13's headers lack it and 10.16's have it.
    ("serialization_flag", "include_refit", "v10"): 101400,
}


def version(name):
    major, minor = name.split("-")[1].split(".")
    return int(major) * 10000 + int(minor) * 100


def snake(name):
    name = name.removeprefix("k") if re.match(r"k[A-Z]", name) else name
    if name.isupper() or re.fullmatch(r"[A-Z0-9_]+", name):
        return name.lower()
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def method_name(signature):
    if signature.endswith(" dtor"):
        return "~" + signature.replace(" ", "_")
    return re.search(r"(\w+)\(", signature).group(1)


def find(slots, want):
    """Slot number and signature of `want`, or None."""
    want, _, args = want.partition("(")
    found = [(int(i), s) for i, s in (slots or {}).items()
             if method_name(s) == want and (not args or "(" + args in s.replace(" ", ""))]
    if len(found) > 1:
        sys.exit(f"{want} is ambiguous: {found}")
    return found[0] if found else None


def entry(members, get, group, field, family):
    """`at(number, since)` of one slot or enumerator over a family's members."""
    number, since = None, None
    for m in members:
        n = get(m)
        if n is None:
            if number is not None:
                sys.exit(f"{group}.{field} vanishes in {m['version']}")
            continue
        if number is None:
            number, since = n, version(m["version"])
        elif number != n:
            sys.exit(f"{group}.{field} moves in {m['version']}: {number} -> {n}")
    if number is None:
        return "ABSENT"
    return f"at({number}, {SINCE.get((group, field, family), since):_})"


def field_of(want):
    name = want.partition("(")[0]
    return snake(name.lstrip("~"))


def reduced(d):
    """The part of a release's data that is used."""
    keep = {}
    for cls, wants in CLASSES.values():
        if cls in d["vtables"]:
            hits = [find(d["vtables"][cls], w) for w in wants.split()]
            keep[cls] = {f"{h[0]:02d}": h[1] for h in sorted(filter(None, hits))}
    for cls in CALLBACKS:
        if cls in d["vtables"]:
            keep[cls] = d["vtables"][cls]
    enums = {}
    for enum, wants in ENUMS.values():
        if enum in d["enums"]:
            enums[enum] = {w: d["enums"][enum][w] for w in wants.split() if w in d["enums"][enum]}
    return {"version": d["version"], "vtables": keep, "enums": enums, "structs": d["structs"],
            "handle_layout": d["handle_layout"]}


def main():
    source = Path(sys.argv[1])
    root = Path(__file__).resolve().parent.parent
    for family, names in FAMILIES.items():
        members = [json.loads((source / f"{n}.json").read_text()) for n in names]
        for d in members:
            text = json.dumps(reduced(d), indent=None, separators=(",", ":"))
            text = re.sub(r'("(?:vtables|enums|structs|handle_layout)":\{)|(\},)(?=")', r"\1\2\n", text)
            (root / "fixtures/abi" / f"{d['version']}.json").write_text(text + "\n")
        by_value = "Dims)" in find(members[0]["vtables"]["VOptimizationProfile"], "setDimensions")[1]
        wide = "nvinfer1::Dims64" in members[0]["structs"]
        versioned = find(members[0]["vtables"]["ILogger"], "log")[0] == 4
        out = [f"//! {TITLES[family]}. Written by scripts/gen-abi.py; do not edit.", "",
               "use super::{ABSENT, DimsForm, Family, LoggerForm, Table, at};", "", "/// The table of this family.",
               "pub const TABLE: Table = Table {",
               f"family: Family::{family.upper() if family.startswith('v') else family.replace('rtx', 'Rtx')},",
               f"dims: DimsForm::{'Narrow' if not wide else 'Wide'},",
               f"logger: LoggerForm::{'Versioned' if versioned else 'Plain'},"]
        if by_value == wide:
            sys.exit(f"{family}: 32-bit Dims go by value and 64-bit ones by reference; this does neither")
        for group, (cls, wants) in CLASSES.items():
            out.append(f"{group}: super::{''.join(p.title() for p in group.split('_'))}Slots {{")
            for w in wants.split():
                hit = lambda m, w=w: (find(m["vtables"].get(cls), w) or [None])[0]
                out.append(f"{field_of(w)}: {entry(members, hit, group, field_of(w), family)},")
            out.append("},")
        for group, (enum, wants) in ENUMS.items():
            out.append(f"{group}: super::{''.join(p.title() for p in group.split('_'))}Values {{")
            for w in wants.split():
                get = lambda m, w=w: m["enums"].get(enum, {}).get(w)
                out.append(f"{field_of(w)}: {entry(members, get, group, field_of(w), family)},")
            out.append("},")
        out += ["};", ""]
        (root / "src/engine/tensorrt/abi" / f"{family}.rs").write_text("\n".join(out))


main()
