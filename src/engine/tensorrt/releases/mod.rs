//! TensorRT's binary interface as data: which virtual-table slot and which number stands for what, release by release.
//!
//! Nothing above this module knows a number. The table is written by `scripts/gen-tensorrt-releases.py` from facts read off the vendor's
//! public headers; tests read those facts (`fixtures/tensorrt_releases`) again and compare, and compare the slots with what the machine code
//! of the vendor's own bindings calls.

mod numbers;
mod object;
mod release;

pub use object::{Dims32, Dims64, InterfaceInfo, MAX_DIMS, RefitRecord, Weights};
pub use release::{Basis, NoTable, Release};

use std::fmt;

/// The two products that share this interface.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// `libnvinfer.so` and what is beside it.
    #[serde(rename = "tensorrt")]
    TensorRt,
    /// `libtensorrt_rtx.so` and its parser.
    #[serde(rename = "tensorrt-rtx")]
    Rtx,
}

impl Product {
    pub const fn backend(self) -> &'static str {
        match self {
            Product::TensorRt => "tensorrt",
            Product::Rtx => "tensorrt-rtx",
        }
    }

    /// The product's name as its vendor writes it.
    pub const fn title(self) -> &'static str {
        match self {
            Product::TensorRt => "TensorRT",
            Product::Rtx => "TensorRT-RTX",
        }
    }
}

/// A release, ordered; `major * 10000 + minor * 100 + patch` whatever the library's own way to number itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u32);

impl Version {
    /// From its three parts.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version(major * 10_000 + minor * 100 + patch)
    }

    /// From what `getInferLibVersion` returns: `major * 1000 + minor * 100 + patch` before TensorRT 10
    /// (`NV_TENSORRT_VERSION` in `NvInferVersion.h`), `major * 10000 + minor * 100 + patch` since and for TensorRT-RTX.
    pub const fn from_library(product: Product, number: i32) -> Option<Version> {
        if number <= 0 {
            return None;
        }
        let n = number as u32;
        Some(match product {
            Product::TensorRt if n < 100_000 => Version::new(n / 1000, n / 100 % 10, n % 100),
            _ => Version(n),
        })
    }

    pub const fn parts(self) -> (u32, u32, u32) {
        (self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.parts();
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// Width of the extents in `Dims`; the narrow form is passed by value, the wide one by reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DimsForm {
    /// `Dims32`: 32 bits an extent.
    Narrow,
    /// `Dims64`: 64 bits an extent.
    Wide,
}

/// Order of the virtual functions of `ILogger`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggerForm {
    /// `[log, D1, D0]`, before TensorRT 11.
    Plain,
    /// `[getAPILanguage, getInterfaceInfo, D1, D0, log]`.
    Versioned,
}

/// Order of the virtual functions of `IProgressMonitor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonitorForm {
    /// `[D1, D0, phaseStart, stepComplete, phaseFinish]`.
    Plain,
    /// The same behind `getAPILanguage, getInterfaceInfo`.
    Versioned,
}

/// How engines are opened and execution contexts made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallForm {
    /// `deserializeCudaEngine(data, size, factory)` and `createExecutionContext()`.
    Factory,
    /// `deserializeCudaEngine(data, size)` and `createExecutionContext(strategy)`.
    Strategy,
}

/// Order of the virtual functions of `IOutputAllocator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocatorForm {
    /// `[getInterfaceVersion, reallocateOutput, notifyShape, D1, D0]`, of which 8.5.1 and 8.5.2 have the first three.
    Plain,
    /// `[getAPILanguage, getInterfaceInfo, D1, D0, reallocateOutput, reallocateOutputAsync, notifyShape]`.
    Versioned,
    /// As `Versioned`, without `reallocateOutput`.
    AsyncOnly,
}

/// Order of the virtual functions of `IProfiler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfilerForm {
    /// `[reportLayerTime, D1, D0]` and nothing before them.
    Plain,
    /// `[getAPILanguage, getInterfaceInfo, D1, D0, reportLayerTime]`.
    Versioned,
}

/// How the releases of one column call and are called.
#[derive(Debug, PartialEq, Eq)]
pub struct Column {
    pub product: Product,
    pub dims: DimsForm,
    pub logger: LoggerForm,
    pub monitor: MonitorForm,
    /// Form of two calls.
    pub calls: CallForm,
    pub allocator: AllocatorForm,
    pub profiler: ProfilerForm,
}

/// A slot number or an enumerator's value, for every column.
#[derive(Debug, Clone, Copy)]
pub struct Entry([u16; numbers::COUNT]);

/// The number of what a release does not have.
const ABSENT: u16 = u16::MAX;

impl Entry {
    /// The number, if `release` has it and there is no doubt about it.
    pub fn get(&self, release: Release) -> Option<u16> {
        let number = self.0[release.low];
        (number != ABSENT && number == self.0[release.high]).then_some(number)
    }

    /// The first release of `product` that has it.
    pub fn since(&self, product: Product) -> Option<Version> {
        let of_product =
            |column: usize| numbers::COLUMNS[column].product == product && self.0[column] != ABSENT;
        numbers::RELEASES
            .iter()
            .find(|(_, column)| of_product(*column))
            .map(|(version, _)| *version)
    }
}

/// The numbers of all releases.
pub static TABLE: &Table = &numbers::TABLE;

/// One named entry, as the test that re-reads the facts wants it.
#[cfg(test)]
struct Named {
    /// C++ class or enum.
    owner: &'static str,
    name: &'static str,
    /// Whether it is an enumerator.
    value: bool,
    entry: &'static Entry,
}

macro_rules! table {
    ($($kind:ident $group:ident: $type:ident = $owner:literal { $($field:ident = $name:literal,)* })*) => {
        $(
            #[doc = concat!("Numbers of `", $owner, "`.")]
            #[derive(Debug)]
            pub struct $type { $(#[doc = concat!("`", $name, "`")] pub $field: Entry,)* }
        )*

        /// Every number that is used.
        #[derive(Debug)]
        pub struct Table {
            $(#[doc = concat!("`", $owner, "`")] pub $group: $type,)*
        }

        #[cfg(test)]
        impl Table {
            fn named(&'static self) -> Vec<Named> {
                vec![$($(Named {
                    owner: $owner, name: $name, value: stringify!($kind) == "values", entry: &self.$group.$field,
                },)*)*]
            }
        }
    };
}

table! {
    slots builder: BuilderSlots = "VBuilder" {
        create_builder_config = "createBuilderConfig",
        create_network_v2 = "createNetworkV2",
        create_optimization_profile = "createOptimizationProfile",
        build_serialized_network = "buildSerializedNetwork",
        build_serialized_network_to_stream = "buildSerializedNetworkToStream",
        set_max_threads = "setMaxThreads",
    }
    slots config: ConfigSlots = "VBuilderConfig" {
        set_flag = "setFlag",
        clear_flag = "clearFlag",
        add_optimization_profile = "addOptimizationProfile",
        set_profiling_verbosity = "setProfilingVerbosity",
        create_timing_cache = "createTimingCache",
        set_timing_cache = "setTimingCache",
        set_memory_pool_limit = "setMemoryPoolLimit",
        set_builder_optimization_level = "setBuilderOptimizationLevel",
        set_hardware_compatibility_level = "setHardwareCompatibilityLevel",
        set_progress_monitor = "setProgressMonitor",
        set_nb_compute_capabilities = "setNbComputeCapabilities",
        set_compute_capability = "setComputeCapability",
        set_plugins_to_serialize = "setPluginsToSerialize",
    }
    slots timing_cache: TimingCacheSlots = "VTimingCache" {
        serialize = "serialize",
    }
    slots network: NetworkSlots = "VNetworkDefinition" {
        get_nb_inputs = "getNbInputs",
        get_input = "getInput",
        get_nb_outputs = "getNbOutputs",
        get_output = "getOutput",
        get_nb_layers = "getNbLayers",
        get_layer = "getLayer",
        mark_weights_refittable = "markWeightsRefittable",
    }
    slots layer: LayerSlots = "VLayer" {
        get_nb_inputs = "getNbInputs",
        get_input = "getInput",
        get_nb_outputs = "getNbOutputs",
        get_output = "getOutput",
        set_precision = "setPrecision",
        set_output_type = "setOutputType",
    }
    slots tensor: TensorSlots = "VTensor" {
        get_name = "getName",
        get_dimensions = "getDimensions",
        get_type = "getType",
        is_shape_tensor = "isShapeTensor",
    }
    slots profile: ProfileSlots = "VOptimizationProfile" {
        set_dimensions = "setDimensions",
    }
    slots host_memory: HostMemorySlots = "VHostMemory" {
        data = "data",
        size = "size",
    }
    slots runtime: RuntimeSlots = "VRuntime" {
        deserialize_cuda_engine = "deserializeCudaEngine",
        set_engine_host_code_allowed = "setEngineHostCodeAllowed",
    }
    slots engine: EngineSlots = "VCudaEngine" {
        serialize = "serialize",
        create_execution_context = "createExecutionContext",
        is_refittable = "isRefittable",
        get_nb_io_tensors = "getNbIOTensors",
        get_io_tensor_name = "getIOTensorName",
        get_tensor_shape = "getTensorShape",
        get_tensor_data_type = "getTensorDataType",
        get_tensor_io_mode = "getTensorIOMode",
        get_tensor_location = "getTensorLocation",
        get_profile_shape = "getProfileShape",
        get_nb_optimization_profiles = "getNbOptimizationProfiles",
        create_serialization_config = "createSerializationConfig",
        serialize_with_config = "serializeWithConfig",
        create_engine_inspector = "createEngineInspector",
        get_nb_layers = "getNbLayers",
        get_streamable_weights_size = "getStreamableWeightsSize",
        set_weight_streaming_budget_v2 = "setWeightStreamingBudgetV2",
    }
    slots serialization_config: SerializationConfigSlots = "VSerializationConfig" {
        set_flag = "setFlag",
        clear_flag = "clearFlag",
    }
    slots inspector: InspectorSlots = "VEngineInspector" {
        get_engine_information = "getEngineInformation",
    }
    slots context: ContextSlots = "VExecutionContext" {
        set_input_shape = "setInputShape",
        get_tensor_shape = "getTensorShape",
        set_tensor_address = "setTensorAddress",
        infer_shapes = "inferShapes",
        set_output_allocator = "setOutputAllocator",
        enqueue_v3 = "enqueueV3",
        set_optimization_profile_async = "setOptimizationProfileAsync",
        set_profiler = "setProfiler",
    }
    slots refitter: RefitterSlots = "VRefitter" {
        refit_cuda_engine = "refitCudaEngine",
        set_named_weights = "setNamedWeights",
        get_missing_weights = "getMissingWeights",
        get_all_weights = "getAllWeights",
        set_max_threads = "setMaxThreads",
        get_weights_prototype = "getWeightsPrototype",
        get_named_weights = "getNamedWeights",
        get_weights_location = "getWeightsLocation",
    }
    slots parser: ParserSlots = "IParser" {
        parse = "parse",
        parse_from_file = "parseFromFile",
        get_nb_errors = "getNbErrors",
        get_error = "getError",
        set_flag = "setFlag",
        set_refit_observer = "setRefitObserver",
        deleting_dtor = "deleting dtor",
    }
    slots parser_refitter: ParserRefitterSlots = "IParserRefitter" {
        refit_from_file = "refitFromFile",
        get_nb_errors = "getNbErrors",
        get_error = "getError",
        deleting_dtor = "deleting dtor",
    }
    slots parser_error: ParserErrorSlots = "IParserError" {
        desc = "desc",
        file = "file",
        line = "line",
        node = "node",
        node_name = "nodeName",
        node_operator = "nodeOperator",
    }
    values flag: FlagValues = "BuilderFlag" {
        fp16 = "kFP16",
        bf16 = "kBF16",
        int8 = "kINT8",
        tf32 = "kTF32",
        refit = "kREFIT",
        refit_identical = "kREFIT_IDENTICAL",
        refit_individual = "kREFIT_INDIVIDUAL",
        strip_plan = "kSTRIP_PLAN",
        sparse_weights = "kSPARSE_WEIGHTS",
        version_compatible = "kVERSION_COMPATIBLE",
        prefer_precision_constraints = "kPREFER_PRECISION_CONSTRAINTS",
        weight_streaming = "kWEIGHT_STREAMING",
    }
    values network_flag: NetworkFlagValues = "NetworkDefinitionCreationFlag" {
        explicit_batch = "kEXPLICIT_BATCH",
        strongly_typed = "kSTRONGLY_TYPED",
    }
    values data_type: DataTypeValues = "DataType" {
        float = "kFLOAT",
        half = "kHALF",
        int8 = "kINT8",
        int32 = "kINT32",
        bool = "kBOOL",
        uint8 = "kUINT8",
        fp8 = "kFP8",
        bf16 = "kBF16",
        int64 = "kINT64",
        int4 = "kINT4",
        fp4 = "kFP4",
        e8m0 = "kE8M0",
    }
    values selector: SelectorValues = "OptProfileSelector" {
        min = "kMIN",
        opt = "kOPT",
        max = "kMAX",
    }
    values io_mode: IoModeValues = "TensorIOMode" {
        input = "kINPUT",
    }
    values location: LocationValues = "TensorLocation" {
        host = "kHOST",
    }
    values pool: PoolValues = "MemoryPoolType" {
        workspace = "kWORKSPACE",
    }
    values verbosity: VerbosityValues = "ProfilingVerbosity" {
        layer_names_only = "kLAYER_NAMES_ONLY",
        none = "kNONE",
        detailed = "kDETAILED",
    }
    values hardware: HardwareValues = "HardwareCompatibilityLevel" {
        ampere_plus = "kAMPERE_PLUS",
        same_compute_capability = "kSAME_COMPUTE_CAPABILITY",
    }
    values compute_capability: ComputeCapabilityValues = "ComputeCapability" {
        sm75 = "kSM75",
        sm80 = "kSM80",
        sm86 = "kSM86",
        sm89 = "kSM89",
        sm120 = "kSM120",
        sm121 = "kSM121",
    }
    values serialization_flag: SerializationFlagValues = "SerializationFlag" {
        exclude_weights = "kEXCLUDE_WEIGHTS",
        include_refit = "kINCLUDE_REFIT",
    }
    values allocation: AllocationValues = "ExecutionContextAllocationStrategy" {
        r#static = "kSTATIC",
    }
    values layer_format: LayerFormatValues = "LayerInformationFormat" {
        json = "kJSON",
    }
    values parser_flag: ParserFlagValues = "nvonnxparser::OnnxParserFlag" {
        native_instancenorm = "kNATIVE_INSTANCENORM",
    }
}

#[cfg(test)]
mod tests;
