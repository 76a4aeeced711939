//! The numbers of every release whose headers were read. Written by scripts/gen-tensorrt-releases.py; do not edit.

use super::{
    ABSENT as XX, AllocatorForm, CallForm, Column, DimsForm, Entry, LoggerForm, MonitorForm,
    Product, ProfilerForm, Table, Version,
};

/// Number of distinct tables.
pub(super) const COUNT: usize = 32;

/// How each of them calls.
#[rustfmt::skip]
pub(super) static COLUMNS: [Column; COUNT] = [
    Column { product: Product::TensorRt, dims: DimsForm::Narrow, logger: LoggerForm::Plain, monitor: MonitorForm::Plain, calls: CallForm::Factory, allocator: AllocatorForm::Plain, profiler: ProfilerForm::Plain }, // 8.5.1
    Column { product: Product::TensorRt, dims: DimsForm::Narrow, logger: LoggerForm::Plain, monitor: MonitorForm::Plain, calls: CallForm::Factory, allocator: AllocatorForm::Plain, profiler: ProfilerForm::Plain }, // 8.5
    Column { product: Product::TensorRt, dims: DimsForm::Narrow, logger: LoggerForm::Plain, monitor: MonitorForm::Plain, calls: CallForm::Factory, allocator: AllocatorForm::Plain, profiler: ProfilerForm::Plain }, // 8.6.0
    Column { product: Product::TensorRt, dims: DimsForm::Narrow, logger: LoggerForm::Plain, monitor: MonitorForm::Plain, calls: CallForm::Factory, allocator: AllocatorForm::Plain, profiler: ProfilerForm::Plain }, // 8.6
    Column { product: Product::TensorRt, dims: DimsForm::Narrow, logger: LoggerForm::Plain, monitor: MonitorForm::Plain, calls: CallForm::Factory, allocator: AllocatorForm::Plain, profiler: ProfilerForm::Plain }, // 9.0
    Column { product: Product::TensorRt, dims: DimsForm::Narrow, logger: LoggerForm::Plain, monitor: MonitorForm::Plain, calls: CallForm::Factory, allocator: AllocatorForm::Plain, profiler: ProfilerForm::Plain }, // 9.1
    Column { product: Product::TensorRt, dims: DimsForm::Narrow, logger: LoggerForm::Plain, monitor: MonitorForm::Plain, calls: CallForm::Factory, allocator: AllocatorForm::Plain, profiler: ProfilerForm::Plain }, // 9.2
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.0
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.1
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.2
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.3
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.4
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.5
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.6
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.7
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.8
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.9
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.10
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.11
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.12
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.13
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.14
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.15
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Plain }, // 10.16
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Versioned, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Versioned }, // 11.0
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Versioned, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Versioned }, // 11.1
    Column { product: Product::TensorRt, dims: DimsForm::Wide, logger: LoggerForm::Versioned, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::Versioned, profiler: ProfilerForm::Versioned }, // 11.4
    Column { product: Product::Rtx, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::AsyncOnly, profiler: ProfilerForm::Plain }, // 1.3
    Column { product: Product::Rtx, dims: DimsForm::Wide, logger: LoggerForm::Plain, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::AsyncOnly, profiler: ProfilerForm::Plain }, // 1.4
    Column { product: Product::Rtx, dims: DimsForm::Wide, logger: LoggerForm::Versioned, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::AsyncOnly, profiler: ProfilerForm::Versioned }, // 1.5
    Column { product: Product::Rtx, dims: DimsForm::Wide, logger: LoggerForm::Versioned, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::AsyncOnly, profiler: ProfilerForm::Versioned }, // 1.6
    Column { product: Product::Rtx, dims: DimsForm::Wide, logger: LoggerForm::Versioned, monitor: MonitorForm::Versioned, calls: CallForm::Strategy, allocator: AllocatorForm::AsyncOnly, profiler: ProfilerForm::Versioned }, // 1.7
];

/// The releases whose headers give exactly the numbers of a column, by product and age.
#[rustfmt::skip]
pub(super) static RELEASES: &[(Version, usize)] = &[
    (Version::new(8, 5, 1), 0),
    (Version::new(8, 5, 2), 0),
    (Version::new(8, 5, 3), 1),
    (Version::new(8, 6, 0), 2),
    (Version::new(8, 6, 1), 3),
    (Version::new(9, 0, 1), 4),
    (Version::new(9, 1, 0), 5),
    (Version::new(9, 2, 0), 6),
    (Version::new(9, 3, 0), 6),
    (Version::new(10, 0, 0), 7),
    (Version::new(10, 0, 1), 7),
    (Version::new(10, 1, 0), 8),
    (Version::new(10, 2, 0), 9),
    (Version::new(10, 3, 0), 10),
    (Version::new(10, 4, 0), 11),
    (Version::new(10, 5, 0), 12),
    (Version::new(10, 6, 0), 13),
    (Version::new(10, 7, 0), 14),
    (Version::new(10, 8, 0), 15),
    (Version::new(10, 9, 0), 16),
    (Version::new(10, 10, 0), 17),
    (Version::new(10, 11, 0), 18),
    (Version::new(10, 12, 0), 19),
    (Version::new(10, 13, 0), 20),
    (Version::new(10, 13, 2), 20),
    (Version::new(10, 13, 3), 20),
    (Version::new(10, 14, 1), 21),
    (Version::new(10, 15, 1), 22),
    (Version::new(10, 16, 0), 23),
    (Version::new(10, 16, 1), 23),
    (Version::new(11, 0, 0), 24),
    (Version::new(11, 1, 0), 25),
    (Version::new(11, 4, 0), 26),
    (Version::new(1, 3, 0), 27),
    (Version::new(1, 4, 0), 28),
    (Version::new(1, 5, 0), 29),
    (Version::new(1, 6, 1), 30),
    (Version::new(1, 7, 1), 31),
];

/// One row an entry, one number a column.
#[rustfmt::skip]
pub(super) static TABLE: Table = Table {
    builder: super::BuilderSlots {
        create_builder_config: Entry([ 9,  9,  9,  9,  9,  9,  9,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  5,  5,  5,  7,  7,  5,  5,  5]),
        create_network_v2: Entry([11, 11, 11, 11, 11, 11, 11,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  6,  6,  6,  8,  8,  6,  6,  6]),
        create_optimization_profile: Entry([12, 12, 12, 12, 12, 12, 12,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  7,  7,  7,  9,  9,  7,  7,  7]),
        build_serialized_network: Entry([17, 17, 17, 17, 17, 17, 17, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 11, 11, 11, 14, 14, 11, 11, 11]),
        build_serialized_network_to_stream: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 21, 21, 21, 21, 18, 18, 18, 20, 20, 17, 17, 17]),
        set_max_threads: Entry([20, 20, 20, 20, 20, 20, 20, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 14, 14, 14, 17, 17, 14, 14, 14]),
    },
    config: super::ConfigSlots {
        set_flag: Entry([15, 15, 15, 15, 15, 15, 15, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11,  9,  9,  9,  9,  9,  9,  9,  9]),
        clear_flag: Entry([14, 14, 14, 14, 14, 14, 14, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10,  8,  8,  8,  8,  8,  8,  8,  8]),
        add_optimization_profile: Entry([29, 29, 29, 29, 29, 29, 29, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 23, 23, 23, 23, 23, 23, 23, 23]),
        set_profiling_verbosity: Entry([31, 31, 31, 31, 31, 31, 31, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 25, 25, 25, 25, 25, 25, 25, 25]),
        create_timing_cache: Entry([44, 44, 44, 44, 44, 44, 44, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 29, 29, 29, 29, 29, 29, 29, 29]),
        set_timing_cache: Entry([45, 45, 45, 45, 45, 45, 45, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 30, 30, 30, 30, 30, 30, 30, 30]),
        set_memory_pool_limit: Entry([47, 47, 47, 47, 47, 47, 47, 43, 43, 43, 43, 43, 43, 43, 43, 43, 43, 43, 43, 43, 43, 43, 43, 43, 32, 32, 32, 32, 32, 32, 32, 32]),
        set_builder_optimization_level: Entry([XX, XX, 51, 51, 51, 51, 51, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 36, 36, 36, 36, 36, 36, 36, 36]),
        set_hardware_compatibility_level: Entry([XX, XX, 53, 53, 53, 53, 53, 49, 49, 49, 49, 49, 49, 49, 49, 49, 49, 49, 49, 49, 49, 49, 49, 49, 38, 38, 38, 38, 38, 38, 38, 38]),
        set_progress_monitor: Entry([XX, XX, XX, XX, 60, 60, 60, 56, 56, 56, 56, 56, 56, 56, 56, 56, 56, 56, 56, 56, 56, 56, 56, 56, 45, 45, 45, 45, 45, 45, 45, 45]),
        set_nb_compute_capabilities: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 55, 55, 55, 55, 55]),
        set_compute_capability: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 57, 57, 57, 57, 57]),
        set_plugins_to_serialize: Entry([XX, XX, 55, 55, 55, 55, 55, 51, 51, 51, 51, 51, 51, 51, 51, 51, 51, 51, 51, 51, 51, 51, 51, 51, 40, 40, 40, 40, 40, 40, 40, 40]),
    },
    timing_cache: super::TimingCacheSlots {
        serialize: Entry([ 2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
    },
    network: super::NetworkSlots {
        get_nb_inputs: Entry([19, 19, 19, 19, 19, 19, 19, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14]),
        get_input: Entry([20, 20, 20, 20, 20, 20, 20, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15]),
        get_nb_outputs: Entry([21, 21, 21, 21, 21, 21, 21, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16]),
        get_output: Entry([22, 22, 22, 22, 22, 22, 22, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17]),
        get_nb_layers: Entry([17, 17, 17, 17, 17, 17, 17, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12]),
        get_layer: Entry([18, 18, 18, 18, 18, 18, 18, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13]),
        mark_weights_refittable: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, 72, 72, 72, 72, 72, 72, 73, 72, 72, 72, 72, 72, 72, 72, 72, 69, 69, 69, 68, 68, 67, 67, 67]),
    },
    layer: super::LayerSlots {
        get_nb_inputs: Entry([ 5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5]),
        get_input: Entry([ 6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6]),
        get_nb_outputs: Entry([ 7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7]),
        get_output: Entry([ 8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8]),
        set_precision: Entry([10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, XX, XX, XX, 10, 10, XX, XX, XX]),
        set_output_type: Entry([14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, XX, XX, XX, 14, 14, XX, XX, XX]),
    },
    tensor: super::TensorSlots {
        get_name: Entry([ 3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3]),
        get_dimensions: Entry([ 5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5]),
        get_type: Entry([ 7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  6,  6,  6,  7,  7,  6,  6,  6]),
        is_shape_tensor: Entry([21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 15, 15, 15, 12, 12, 11, 11, 11]),
    },
    profile: super::ProfileSlots {
        set_dimensions: Entry([ 2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
    },
    host_memory: super::HostMemorySlots {
        data: Entry([ 2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
        size: Entry([ 3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3]),
    },
    runtime: super::RuntimeSlots {
        deserialize_cuda_engine: Entry([ 2,  2,  2,  2,  2,  2,  2,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3]),
        set_engine_host_code_allowed: Entry([XX, XX, 20, 20, 20, 20, 20, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 20, 20, 20, 21, 21, 20, 20, 20]),
    },
    engine: super::EngineSlots {
        serialize: Entry([10, 10, 10, 10, 10, 10, 10,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4]),
        create_execution_context: Entry([11, 11, 11, 11, 11, 11, 11,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5]),
        is_refittable: Entry([15, 15, 15, 15, 15, 15, 15,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  6,  6,  6,  6,  6,  6,  6,  6]),
        get_nb_io_tensors: Entry([45, 45, 45, 45, 45, 45, 45, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 26, 26, 26, 28, 28, 26, 26, 26]),
        get_io_tensor_name: Entry([46, 46, 46, 46, 46, 46, 46, 31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 27, 27, 27, 29, 29, 27, 27, 27]),
        get_tensor_shape: Entry([34, 34, 34, 34, 34, 34, 34, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 15, 15, 15, 17, 17, 15, 15, 15]),
        get_tensor_data_type: Entry([35, 35, 35, 35, 35, 35, 35, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 16, 16, 16, 18, 18, 16, 16, 16]),
        get_tensor_io_mode: Entry([38, 38, 38, 38, 38, 38, 38, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 19, 19, 19, 21, 21, 19, 19, 19]),
        get_tensor_location: Entry([36, 36, 36, 36, 36, 36, 36, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 17, 17, 17, 19, 19, 17, 17, 17]),
        get_profile_shape: Entry([44, 44, 44, 44, 44, 44, 44, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 25, 25, 25, 27, 27, 25, 25, 25]),
        get_nb_optimization_profiles: Entry([22, 22, 22, 22, 22, 22, 22, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10,  8,  8,  8,  8,  8,  8,  8,  8]),
        create_serialization_config: Entry([XX, XX, XX, XX, XX, XX, 55, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39, 35, 35, 35, 37, 37, 35, 35, 35]),
        serialize_with_config: Entry([XX, XX, XX, XX, XX, XX, 56, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 36, 36, 36, 38, 38, 36, 36, 36]),
        create_engine_inspector: Entry([33, 33, 33, 33, 33, 33, 33, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 14, 14, 14, 16, 16, 14, 14, 14]),
        get_nb_layers: Entry([ 9,  9,  9,  9,  9,  9,  9,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3]),
        get_streamable_weights_size: Entry([XX, XX, XX, XX, XX, XX, XX, 46, 46, 46, 46, 46, 46, 46, 46, 46, 46, 46, 46, 46, 46, 46, 46, 46, 38, 38, 38, 44, 44, 38, 38, 38]),
        set_weight_streaming_budget_v2: Entry([XX, XX, XX, XX, XX, XX, XX, XX, 48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 40, 40, 40, 46, 46, 40, 40, 40]),
    },
    serialization_config: super::SerializationConfigSlots {
        set_flag: Entry([XX, XX, XX, XX, XX, XX,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5]),
        clear_flag: Entry([XX, XX, XX, XX, XX, XX,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4]),
    },
    inspector: super::InspectorSlots {
        get_engine_information: Entry([ 5,  5,  5,  5,  5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6]),
    },
    context: super::ContextSlots {
        set_input_shape: Entry([29, 29, 29, 29, 29, 29, 29, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 20, 20, 20, 21, 21, 20, 20, 20]),
        get_tensor_shape: Entry([30, 30, 30, 30, 30, 30, 30, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 21, 21, 21, 22, 22, 21, 21, 21]),
        set_tensor_address: Entry([32, 32, 32, 32, 32, 32, 32, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 23, 23, 23, 24, 24, 23, 23, 23]),
        infer_shapes: Entry([35, 35, 35, 35, 35, 35, 35, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 27, 27, 27, 28, 28, 27, 27, 27]),
        set_output_allocator: Entry([39, 39, 39, 39, 39, 39, 39, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 31, 31, 31, 32, 32, 31, 31, 31]),
        enqueue_v3: Entry([44, 44, 44, 44, 44, 44, 44, 37, 37, 37, 37, 37, 37, 37, 37, 37, 37, 37, 37, 37, 37, 37, 37, 37, 36, 36, 36, 37, 37, 36, 36, 36]),
        set_optimization_profile_async: Entry([25, 25, 25, 25, 25, 25, 25, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 16, 16, 16, 17, 17, 16, 16, 16]),
        set_profiler: Entry([ 6,  6,  6,  6,  6,  6,  6,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5]),
    },
    refitter: super::RefitterSlots {
        refit_cuda_engine: Entry([ 3,  3,  3,  3,  3,  3,  3,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4]),
        set_named_weights: Entry([12, 12, 12, 12, 12, 12, 12, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13,  9,  9,  9, 13, 13,  9,  9,  9]),
        get_missing_weights: Entry([13, 13, 13, 13, 13, 13, 13, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 10, 10, 10, 14, 14, 10, 10, 10]),
        get_all_weights: Entry([14, 14, 14, 14, 14, 14, 14, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 11, 11, 11, 15, 15, 11, 11, 11]),
        set_max_threads: Entry([16, 16, 16, 16, 16, 16, 16, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 13, 13, 13, 17, 17, 13, 13, 13]),
        get_weights_prototype: Entry([XX, XX, XX, XX, XX, XX, XX, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 26, 22, 22, 22, 26, 26, 22, 22, 22]),
        get_named_weights: Entry([XX, XX, XX, XX, XX, 19, 19, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 16, 16, 16, 20, 20, 16, 16, 16]),
        get_weights_location: Entry([XX, XX, XX, XX, XX, 20, 20, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 17, 17, 17, 21, 21, 17, 17, 17]),
    },
    parser: super::ParserSlots {
        parse: Entry([ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]),
        parse_from_file: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
        get_nb_errors: Entry([ 6,  6,  6,  6,  6,  6,  6,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  3,  3,  3,  5,  5,  3,  3,  3]),
        get_error: Entry([ 7,  7,  7,  7,  7,  7,  7,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  4,  4,  4,  6,  6,  4,  4,  4]),
        set_flag: Entry([XX, XX, XX, 15, 15, 15, 15, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 12, 12, 12, 14, 14, 12, 12, 12]),
        set_refit_observer: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 23, XX, XX, XX, XX, 23]),
        deleting_dtor: Entry([10, 10, 10, 10, 10, 10, 10,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  7,  7,  7,  9,  9,  7,  7,  7]),
    },
    parser_refitter: super::ParserRefitterSlots {
        refit_from_file: Entry([XX, XX, XX, XX, XX, XX, XX,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
        get_nb_errors: Entry([XX, XX, XX, XX, XX, XX, XX,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
        get_error: Entry([XX, XX, XX, XX, XX, XX, XX,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3]),
        deleting_dtor: Entry([XX, XX, XX, XX, XX, XX, XX,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6]),
    },
    parser_error: super::ParserErrorSlots {
        desc: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
        file: Entry([ 2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
        line: Entry([ 3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3]),
        node: Entry([ 5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5]),
        node_name: Entry([XX, XX, XX, XX, XX,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6]),
        node_operator: Entry([XX, XX, XX, XX, XX,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7]),
    },
    flag: super::FlagValues {
        fp16: Entry([ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0, XX, XX, XX,  0,  0, XX, XX, XX]),
        bf16: Entry([XX, XX, XX, XX, 19, 19, 19, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, XX, XX, XX, 17, 17, XX, XX, XX]),
        int8: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1, XX, XX, XX,  1,  1, XX, XX, XX]),
        tf32: Entry([ 7,  7,  7,  7,  7,  7,  7,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6]),
        refit: Entry([ 5,  5,  5,  5,  5,  5,  5,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4]),
        refit_identical: Entry([XX, XX, XX, XX, XX, XX, XX, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 19, 19, 19, 20, 20, 19, 19, 19]),
        refit_individual: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 23, 22, 22, 22, 23, 23, 22, 22, 22]),
        strip_plan: Entry([XX, XX, XX, XX, XX, XX, XX, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 18, 18, 18, 19, 19, 18, 18, 18]),
        sparse_weights: Entry([ 8,  8,  8,  8,  8,  8,  8,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7]),
        version_compatible: Entry([XX, XX, 15, 15, 15, 15, 15, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 12, 12, 12, 13, 13, 12, 12, 12]),
        prefer_precision_constraints: Entry([11, 11, 11, 11, 11, 11, 11, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, XX, XX, XX, 10, 10, XX, XX, XX]),
        weight_streaming: Entry([XX, XX, XX, XX, XX, XX, XX, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 20, 20, 20, 21, 21, 20, 20, 20]),
    },
    network_flag: super::NetworkFlagValues {
        explicit_batch: Entry([ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0, XX, XX, XX,  0,  0, XX, XX, XX]),
        strongly_typed: Entry([XX, XX, XX, XX,  2,  2,  2,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  0,  0,  0,  1,  1,  0,  0,  0]),
    },
    data_type: super::DataTypeValues {
        float: Entry([ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]),
        half: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
        int8: Entry([ 2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
        int32: Entry([ 3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3]),
        bool: Entry([ 4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4]),
        uint8: Entry([ 5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5,  5]),
        fp8: Entry([XX, XX,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6,  6]),
        bf16: Entry([XX, XX, XX, XX,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7]),
        int64: Entry([XX, XX, XX, XX,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8]),
        int4: Entry([XX, XX, XX, XX, XX, XX, XX,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9]),
        fp4: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]),
        e8m0: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11]),
    },
    selector: super::SelectorValues {
        min: Entry([ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]),
        opt: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
        max: Entry([ 2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
    },
    io_mode: super::IoModeValues {
        input: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
    },
    location: super::LocationValues {
        host: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
    },
    pool: super::PoolValues {
        workspace: Entry([ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]),
    },
    verbosity: super::VerbosityValues {
        layer_names_only: Entry([ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]),
        none: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
        detailed: Entry([ 2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
    },
    hardware: super::HardwareValues {
        ampere_plus: Entry([XX, XX,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
        same_compute_capability: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
    },
    compute_capability: super::ComputeCapabilityValues {
        sm75: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 75, 75, 75, 75, 75]),
        sm80: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 80, 80, 80, 80, 80]),
        sm86: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 86, 86, 86, 86, 86]),
        sm89: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 89, 89, 89, 89, 89]),
        sm120: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 120, 120, 120, 120, 120]),
        sm121: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 121, 121, 121]),
    },
    serialization_flag: super::SerializationFlagValues {
        exclude_weights: Entry([XX, XX, XX, XX, XX, XX,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]),
        include_refit: Entry([XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2]),
    },
    allocation: super::AllocationValues {
        r#static: Entry([XX, XX, XX, XX, XX, XX, XX,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]),
    },
    layer_format: super::LayerFormatValues {
        json: Entry([ 1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1]),
    },
    parser_flag: super::ParserFlagValues {
        native_instancenorm: Entry([XX, XX, XX,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]),
    },
};
