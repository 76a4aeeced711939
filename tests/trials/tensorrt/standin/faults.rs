//! The binding on the stand-in, call by call: what it makes of every answer that a library may give.

use super::library::{Release, StandIn, stand_in};
use crate::support::net::{Net, random};
use crate::tensorrt::model;
use libtest_mimic::Failed;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex};
use trtmut::engine::tensorrt::api::{
    Builder, Core, CudaEngine, Flag, NetworkTyping, Parser, ParserRefitter, Refitter, Runtime,
    Selector,
};
use trtmut::engine::tensorrt::options::Verbosity;
use trtmut::engine::tensorrt::{Known, Product, list_slots, refit_engine, refit_in_rounds};
use trtmut::engine::tensorrt::{Search, loader};
use trtmut::engine::{Backend, BuildJob, Error, Feed, Slot};
use trtmut::tensor::Dtype;
use trtmut::watch::{Event, Silent, Watch};

/// The release that can be run on a GPU, the last one of the most used major, and TensorRT-RTX.
const V8: &str = "trt-8.6.0";
const V10: &str = "trt-10.16";
const RTX: &str = "rtx-1.7";
const THREE: [&str; 3] = [V8, V10, RTX];

type Test = fn() -> Result<(), Failed>;

pub const TESTS: &[(&str, Test)] = &[
    ("a_release_without_a_table_is_not_called", unknown_version),
    ("missing_symbols_are_named", missing_symbols),
    ("null_factories_tell_the_librarys_words", null_factories),
    ("parse_errors_are_records", parse_errors),
    ("a_failed_build_tells_the_last_errors", build_null),
    ("a_refused_profile_is_told", profile_refused),
    ("plans_that_do_not_open_tell_why", deserialize_null),
    ("odd_answers_are_errors", odd_answers),
    ("layers_are_pinned_where_types_are_weak", pinned_layers),
    ("a_failed_refit_is_told", refit_false),
    (
        "weights_that_do_not_fit_are_refused_before_the_library_sees_them",
        wrong_weights,
    ),
    ("a_layers_other_weights_are_asked_for", missing_weights),
    ("slots_come_from_prototypes_or_from_what_is_known", slots),
    (
        "what_is_computed_together_is_given_together",
        only_what_differs,
    ),
    ("a_failed_enqueue_is_told", enqueue_false),
    ("objects_keep_their_library", library_dropped_first),
    ("nothing_is_leaked_and_nothing_goes_too_early", whole_cycle),
    (
        "without_a_gpu_nothing_is_called_that_needs_one",
        needs_a_gpu,
    ),
    ("the_backend_builds_ahead_of_time", ahead_of_time),
    ("the_faulty_release_is_not_built_for", fault_of_11_3),
];

/// A stand-in that does nothing wrong again when the test is over; what is alive on this thread is counted from here.
struct Fake {
    stand_in: Arc<StandIn>,
    alive: i32,
}

impl Deref for Fake {
    type Target = StandIn;

    fn deref(&self) -> &StandIn {
        &self.stand_in
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stand_in.set_fault("");
    }
}

fn fake(release: &str, fault: &str) -> Fake {
    let stand_in = stand_in(&Release::named(release));
    stand_in.set_fault(fault);
    Fake {
        alive: stand_in.live(),
        stand_in,
    }
}

impl Fake {
    fn alive(&self) -> i32 {
        self.live() - self.alive
    }
}

/// `y = x·w + b + c`: w and b are one layer, c stands alone.
fn onnx() -> &'static Path {
    static FILE: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let net = Net::default()
            .input("x", &["B", "4"])
            .output("y", &["B", "4"])
            .weight("w", &random(1, &[4, 4]))
            .weight("b", &random(2, &[4]))
            .weight("c", &random(3, &[4]))
            .node("m", "MatMul", &["x", "w"], "h", &[])
            .node("m", "Add", &["h", "b"], "sum", &[])
            .node("n", "Add", &["sum", "c"], "y", &[]);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, net.onnx("")).expect("it takes files");
        (folder, path)
    });
    &FILE.1
}

#[derive(Default)]
struct Collect(Mutex<Vec<String>>);

impl Watch for Collect {
    fn event(&self, event: Event<'_>) {
        self.0.lock().expect("no panic").push(format!("{event:?}"));
    }
}

/// Gives `[7, …]` for the named slots.
struct Sevens(&'static [&'static str]);

impl Feed for Sevens {
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error> {
        Ok(self
            .0
            .contains(&slot.name.as_str())
            .then(|| Cow::Owned(7f32.to_le_bytes().repeat(slot.count))))
    }
}

fn f32_slot(name: &str, shape: &[usize]) -> Slot {
    Slot {
        name: name.into(),
        dtype: Dtype::F32,
        shape: Some(shape.to_vec()),
        count: shape.iter().product(),
        refittable: true,
    }
}

fn known() -> Known {
    Known {
        slots: vec![
            f32_slot("w", &[4, 4]),
            f32_slot("b", &[4]),
            f32_slot("c", &[4]),
        ],
        ..Known::default()
    }
}

fn typing(core: &Core) -> NetworkTyping {
    if core.loaded().product == Product::TensorRt && core.version().parts().0 < 11 {
        NetworkTyping::Weak
    } else {
        NetworkTyping::Strong
    }
}

fn engine(core: &Arc<Core>) -> Result<CudaEngine, Error> {
    Runtime::new(core)?.deserialize(&build(core, &Silent)?)
}

/// A plan of the model that is used here.
pub fn plan(stand_in: &StandIn) -> Result<Vec<u8>, Error> {
    build(&stand_in.core(), &Silent)
}

/// Builds with everything that the release has, and gives the plan's bytes.
fn build(core: &Arc<Core>, watch: &dyn Watch) -> Result<Vec<u8>, Error> {
    let builder = Builder::new(core)?;
    builder.set_max_threads(2)?;
    let network = builder.network(typing(core))?;
    let parser = Parser::new(&network)?;
    parser
        .parse_file(onnx())?
        .map_err(|errors| Error::Library {
            library: "the parser".into(),
            message: format!("{errors:?}"),
        })?;
    let inputs = network.inputs()?;
    assert_eq!(
        (
            inputs[0].name.as_str(),
            inputs[0].dtype,
            inputs[0].dims.as_deref()
        ),
        ("x", Dtype::F32, Some(&[-1, 4][..]))
    );
    let config = builder.config()?;
    config.set(Flag::Refit, true)?;
    config.set(Flag::Tf32, false)?;
    config.set_verbosity(Verbosity::Detailed)?;
    config.set_workspace(1 << 20)?;
    assert!(config.set_timing_cache(b"of another GPU")?.is_none());
    let cache = config
        .set_timing_cache(&[])?
        .expect("an empty cache is always taken");
    assert!(!cache.serialize()?.bytes().is_empty());
    let profile = builder.profile()?;
    for (selector, batch) in Selector::ALL.into_iter().zip(1..) {
        profile.set("x", selector, &[batch, 4])?;
    }
    config.add_profile(&profile)?;
    let plan = builder.build(&network, &config, watch)?.bytes().to_vec();
    if builder.can_stream() {
        let mut streamed = Vec::new();
        builder.build_to(&network, &config, &mut streamed, watch)?;
        assert_eq!(streamed, plan);
    }
    Ok(plan)
}

fn whole_cycle() -> Result<(), Failed> {
    for release in ["trt-8.5.1", V8, "trt-9.1", V10, "trt-11.1", RTX] {
        let fake = fake(release, "");
        let core = fake.core();
        let seen = Collect::default();
        let plan = build(&core, &seen)?;
        assert_eq!(
            fake.alive(),
            0,
            "{release}: a builder, network, parser or cache is left"
        );
        let monitored = seen.0.into_inner()?.iter().any(|e| e.contains("Building"));
        assert_eq!(monitored, !release.starts_with("trt-8"), "{release}");
        let engine = Rc::new(Runtime::new(&core)?.deserialize(&plan)?);
        let io = engine.io()?;
        let names: Vec<_> = io
            .iter()
            .map(|t| (t.name.as_str(), t.is_input, t.on_host))
            .collect();
        assert_eq!(names, [("x", true, false), ("y", false, false)]);
        assert_eq!(io[0].dims, [-1, 4]);
        assert_eq!(
            engine.profile_shape("x", 0, Selector::Max)?,
            Some(vec![3, 4])
        );
        assert_eq!(engine.profile_shape("x", 1, Selector::Max)?, None);
        assert_eq!((engine.layers()?, engine.profiles()?), (3, 1));
        assert_eq!(engine.inspect()?, "{\"Layers\":[]}");
        let context = engine.context()?;
        assert!(!context.set_input_shape("x", &[9, 4])? && context.set_input_shape("x", &[3, 4])?);
        context.infer_shapes()?;
        assert_eq!(context.shape("y")?, [3, 4]);
        let (mut x, mut y) = ([1f32; 12], [0f32; 12]);
        let mut run =
            |context: &trtmut::engine::tensorrt::api::Context| -> Result<[f32; 12], Error> {
                #[allow(unsafe_code)]
                // SAFETY: the stand-in computes at once, in memory of this process.
                unsafe {
                    context.set_address("x", x.as_mut_ptr().cast())?;
                    context.set_address("y", y.as_mut_ptr().cast())?;
                    context.enqueue(std::ptr::null_mut())?;
                }
                Ok(y)
            };
        let before = run(&context)?;
        drop(context);
        refit_engine(&engine, &known(), &Sevens(&["w", "b", "c"]), 4, &Silent)?;
        let context = engine.context()?;
        context.set_input_shape("x", &[3, 4])?;
        assert_eq!(run(&context)?, [4.0 * 7.0 + 7.0 + 7.0; 12]);
        assert_ne!(before, [42.0; 12]);
        drop(context);
        for round in [1, 40] {
            let engine = Rc::new(Runtime::new(&core)?.deserialize(&plan)?);
            let sevens = Sevens(&["w", "b", "c"]);
            refit_in_rounds(&engine, &known(), &sevens, 4, &Silent, round)?;
            let context = engine.context()?;
            context.set_input_shape("x", &[3, 4])?;
            let parts = format!("{release}: {round} bytes of weights at a time");
            assert_eq!(run(&context)?, [42.0; 12], "{parts}");
        }
        // What is written is what the engine holds now.
        let again = Rc::new(Runtime::new(&core)?.deserialize(engine.serialize()?.bytes())?);
        let context = again.context()?;
        context.set_input_shape("x", &[3, 4])?;
        assert_eq!(run(&context)?, [42.0; 12], "{release}");
        drop((core, context, again));
        assert_eq!(fake.alive(), 2, "{release}: runtime and engine");
        drop(engine);
        assert_eq!(fake.alive(), 0, "{release}");
    }
    Ok(())
}

fn unavailable(result: Result<Arc<loader::Loaded>, Error>) -> String {
    let e = result.expect_err("it cannot be used");
    assert!(matches!(e, Error::Unavailable { .. }), "{e:?}");
    e.to_string()
}

/// A library of that name which only tells a version, in a folder of its own.
fn version_only(file: &str, number: i32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("v.c");
    let functions = [
        "createInferBuilder_INTERNAL",
        "createInferRuntime_INTERNAL",
        "createInferRefitter_INTERNAL",
    ];
    let functions = functions
        .map(|f| format!("void *{f}(void) {{ return 0; }}"))
        .join("\n");
    std::fs::write(
        &source,
        format!("int getInferLibVersion(void) {{ return {number}; }}\n{functions}"),
    )
    .expect("it takes files");
    let done = std::process::Command::new("g++")
        .args(["-x", "c", "-shared", "-fPIC", "-o"])
        .arg(folder.path().join(file))
        .arg(source)
        .status();
    assert!(done.expect("it starts").success());
    folder
}

fn unknown_version() -> Result<(), Failed> {
    for (file, product, number, expected) in [
        (
            "libnvinfer.so.8",
            Product::TensorRt,
            8401,
            "TensorRT 8.4.1: it is older than 8.5.1",
        ),
        (
            "libnvinfer.so.12",
            Product::TensorRt,
            120_000,
            "TensorRT 12.0.0: it is newer than 11.4.0",
        ),
        ("libtensorrt_rtx.so.1", Product::Rtx, 10200, "1.2.0"),
        ("libnvinfer.so.8", Product::TensorRt, -1, "which is none"),
    ] {
        let folder = version_only(file, number);
        let search = |assume: Option<&str>| Search {
            explicit: Some(folder.path().to_owned()),
            assume: assume.map(str::to_owned),
            ..Search::default()
        };
        let text = unavailable(loader::find(product, &search(None)));
        assert!(text.contains(expected), "{text}");
        let (found, tried) = loader::survey(&search(None));
        assert_eq!((found.len(), tried.len()), (0, 1));
        if number == 120_000 {
            let tried = loader::find(product, &search(Some("11.4")))?;
            assert_eq!(tried.title(), "TensorRT 12.0.0 (called as 11.4.0 is)");
            let text = unavailable(loader::find(product, &search(Some("13.0"))));
            assert!(text.contains("TRTMUT_ASSUME_TENSORRT is `13.0`"), "{text}");
        }
    }
    let folder = version_only("libnvinfer.so.11", 110_300);
    let search = Search {
        explicit: Some(folder.path().to_owned()),
        ..Search::default()
    };
    let between = loader::find(Product::TensorRt, &search)?;
    assert_eq!(
        between.release.basis.to_string(),
        "what the headers of 11.1.0 and 11.4.0 agree on"
    );
    Ok(())
}

fn missing_symbols() -> Result<(), Failed> {
    for (switch, symbol) in [
        ("-DNO_VERSION", "getInferLibVersion"),
        ("-DNO_RUNTIME", "createInferRuntime_INTERNAL"),
    ] {
        let fake = StandIn::compile(&Release::named(V8), &[switch]);
        let text = unavailable(loader::find(Product::TensorRt, &fake.search()));
        assert!(text.contains(symbol), "{text}");
    }
    // Without a builder or a parser a library still runs engines; only building says what is missing.
    let core = StandIn::compile(&Release::named(V8), &["-DNO_BUILDER"]).core();
    assert!(!core.loaded().can_build());
    let e = Builder::new(&core).err().ok_or("there is no builder")?;
    assert!(e.to_string().contains("has no builder"), "{e}");
    let core = StandIn::compile(&Release::named(V8), &["-DNO_PARSER"]).core();
    assert!(!core.loaded().can_build());
    let network = Builder::new(&core)?.network(NetworkTyping::Weak)?;
    let e = Parser::new(&network).err().ok_or("there is no parser")?;
    assert!(e.to_string().contains("createNvOnnxParser_INTERNAL"), "{e}");
    // A parser that takes no model back still parses; a release that has none says so.
    let lacking = StandIn::compile(&Release::named(V10), &["-DNO_PARSER_REFITTER"]).core();
    for (core, takes, says) in [
        (lacking, false, "createNvOnnxParserRefitter_INTERNAL"),
        (fake(V8, "").core(), false, "this version has no"),
        (fake(V10, "").core(), true, ""),
    ] {
        assert!(core.loaded().can_build());
        assert_eq!(core.takes_models_back(), takes);
        let engine = engine(&core)?;
        let refitter = Refitter::new(&engine)?;
        match ParserRefitter::new(&refitter) {
            Ok(_) => assert!(takes),
            Err(e) => assert!(!takes && e.to_string().contains(says), "{e}"),
        }
    }
    Ok(())
}

fn library_error<T>(result: Result<T, Error>, parts: &[&str]) {
    let e = result.err().expect("it must fail");
    let text = e.to_string();
    assert!(parts.iter().all(|p| text.contains(p)), "{text}");
}

fn null_factories() -> Result<(), Failed> {
    for release in THREE {
        library_error(
            Builder::new(&fake(release, "builder").core()),
            &["createInferBuilder", "error: 35"],
        );
        library_error(
            Runtime::new(&fake(release, "runtime").core()),
            &["createInferRuntime", "no reason"],
        );
        let fake = fake(release, "network");
        let core = fake.core();
        library_error(
            Builder::new(&core)?.network(typing(&core)),
            &["createNetworkV2", "no network today"],
        );
        fake.set_fault("parser");
        let network = Builder::new(&core)?.network(typing(&core))?;
        library_error(Parser::new(&network), &["createNvOnnxParser"]);
        fake.set_fault("");
        let engine = Rc::new(engine(&core)?);
        fake.set_fault("refitter");
        library_error(
            Refitter::new(&engine),
            &["createInferRefitter", "not refittable"],
        );
        fake.set_fault("context");
        library_error(
            engine.context(),
            &["createExecutionContext", "mOptimizationProfile"],
        );
    }
    Ok(())
}

fn parse_errors() -> Result<(), Failed> {
    for (release, named) in [
        (V8, false),
        ("trt-9.0", false),
        ("trt-9.1", true),
        (V10, true),
        (RTX, true),
    ] {
        let fake = fake(release, "parse");
        let core = fake.core();
        let model = std::fs::read(onnx())?;
        for bytes in [false, true] {
            let network = Builder::new(&core)?.network(typing(&core))?;
            let parser = Parser::new(&network)?;
            let outcome = if bytes {
                parser.parse_bytes(&model, onnx())?.map(|()| None)
            } else {
                parser.parse_file(onnx())?
            };
            let errors = outcome.expect_err("it fails");
            assert_eq!((errors.len(), errors[0].node), (2, 0));
            assert_eq!(
                errors[0].reason,
                "Assertion failed: axes.allValuesKnown() (onnxOpImporters.cpp:5031)"
            );
            assert_eq!(
                errors[0].operator.as_deref(),
                named.then_some("MatMul"),
                "{release}"
            );
            assert_eq!(
                errors[0].name.as_deref(),
                named.then_some("/m/MatMul"),
                "{release}"
            );
        }
        fake.set_fault("silent parse");
        let network = Builder::new(&core)?.network(typing(&core))?;
        library_error(
            Parser::new(&network)?.parse_file(onnx()),
            &["Failed to parse"],
        );
    }
    Ok(())
}

fn build_null() -> Result<(), Failed> {
    for release in THREE {
        let fake = fake(release, "build");
        let e = build(&fake.core(), &Silent)
            .expect_err("it fails")
            .to_string();
        assert!(
            e.contains("first trouble; Could not find any implementation for node conv_17"),
            "{e}"
        );
        assert!(!e.contains("a warning on the way"), "{e}");
        assert_eq!(fake.alive(), 0);
    }
    Ok(())
}

fn profile_refused() -> Result<(), Failed> {
    for release in [V8, V10] {
        library_error(
            build(&fake(release, "profile").core(), &Silent),
            &["`x`", "profile refused"],
        );
    }
    let core = fake(V8, "").core();
    let profile = Builder::new(&core)?.profile()?;
    library_error(profile.set("x", Selector::Min, &[1; 9]), &["at most 8"]);
    library_error(profile.set("x", Selector::Min, &[1 << 40]), &["too large"]);
    library_error(profile.set("a\0b", Selector::Min, &[1]), &["zero byte"]);
    Ok(())
}

fn deserialize_null() -> Result<(), Failed> {
    for release in THREE {
        let fake = fake(release, "");
        library_error(
            Runtime::new(&fake.core())?.deserialize(b"no plan"),
            &["Version tag does not match"],
        );
        assert_eq!(fake.alive(), 0);
    }
    Ok(())
}

fn odd_answers() -> Result<(), Failed> {
    let fake_8 = fake(V8, "");
    let of_8 = engine(&fake_8.core())?;
    fake_8.set_fault("odd type");
    library_error(of_8.io(), &["element type 99"]);
    let fake_10 = fake(V10, "");
    let of_10 = engine(&fake_10.core())?;
    fake_10.set_fault("no shape");
    library_error(of_10.io(), &["`x` has no shape"]);
    let core = fake_8.core();
    let builder = Builder::new(&core)?;
    library_error(builder.network(NetworkTyping::Strong), &["strongly typed"]);
    let config = builder.config()?;
    library_error(config.set(Flag::StripPlan, true), &["stripped plans"]);
    library_error(
        config.set_compute_capabilities(&[89]),
        &["this version has no"],
    );
    assert!(!config.has(Flag::Bf16) && config.has(Flag::Fp16));
    Ok(())
}

fn pinned_layers() -> Result<(), Failed> {
    for release in [V8, V10] {
        let fake = fake(release, "");
        let core = fake.core();
        let network = Builder::new(&core)?.network(NetworkTyping::Weak)?;
        let parser = Parser::new(&network)?;
        parser.parse_file(onnx())?.expect("it is a model");
        assert!(network.can_pin());
        let layer = network.layer(1)?;
        let tensors = [("h", &layer.inputs), ("sum", &layer.outputs)];
        for (name, tensors) in tensors {
            assert_eq!(tensors.len(), 1);
            assert_eq!(
                (tensors[0].name.as_str(), tensors[0].dtype),
                (name, Dtype::F32)
            );
        }
        layer.pin(Dtype::F16, false)?;
        assert_eq!(fake.pinned() % 10, 2, "kHALF for the output");
        layer.pin(Dtype::F32, true)?;
        assert_eq!(fake.pinned(), 11, "kFLOAT for both");
        library_error(layer.pin(Dtype::F64, true), &["no element type f64"]);
        library_error(network.layer(9).map(|_| ()), &["getLayer"]);
    }
    // Strongly typed networks have nothing to pin.
    let core = fake("trt-11.1", "").core();
    let network = Builder::new(&core)?.network(NetworkTyping::Strong)?;
    assert!(!network.can_pin());
    Ok(())
}

fn refit_false() -> Result<(), Failed> {
    for release in THREE {
        let fake = fake(release, "");
        let engine = engine(&fake.core())?;
        fake.set_fault("refit");
        library_error(
            refit_engine(&engine, &known(), &Sevens(&["w", "b", "c"]), 1, &Silent),
            &["refitCudaEngine failed", "refit went wrong"],
        );
        drop(engine);
        assert_eq!(fake.alive(), 0);
    }
    Ok(())
}

fn wrong_weights() -> Result<(), Failed> {
    let fake_8 = fake(V8, "");
    let of_8 = engine(&fake_8.core())?;
    let mut refitter = Refitter::new(&of_8)?;
    library_error(
        refitter.set("b", Dtype::F32, 4, Cow::Borrowed(&[0; 15])),
        &["`b`", "15 bytes"],
    );
    library_error(
        refitter.set("b", Dtype::Bf16, 4, Cow::Borrowed(&[0; 8])),
        &["`b`", "no element type bf16"],
    );
    library_error(
        refitter.set("b", Dtype::F32, usize::MAX, Cow::Borrowed(&[])),
        &["`b`"],
    );
    let seven = 7f32.to_le_bytes().repeat(4);
    library_error(
        refitter.set("nobody", Dtype::F32, 4, Cow::Borrowed(&seven)),
        &["`nobody`"],
    );
    refitter.set("b", Dtype::F32, 4, Cow::Borrowed(&seven))?;
    drop(refitter);
    let fake_10 = fake(V10, "");
    let of_10 = engine(&fake_10.core())?;
    fake_10.set_fault("set");
    let e = refit_engine(&of_10, &known(), &Sevens(&["w"]), 1, &Silent).expect_err("it is refused");
    assert!(matches!(&e, Error::Weight { name, .. } if name == "w"));
    assert!(
        e.to_string().contains("count of weights does not match"),
        "{e}"
    );
    Ok(())
}

fn missing_weights() -> Result<(), Failed> {
    for release in THREE {
        let fake = fake(release, "");
        let engine = engine(&fake.core())?;
        let e =
            refit_engine(&engine, &known(), &Sevens(&["w"]), 1, &Silent).expect_err("b is missing");
        assert!(
            matches!(&e, Error::Weight { name, .. } if name == "b"),
            "{e}"
        );
        refit_engine(&engine, &known(), &Sevens(&["c"]), 1, &Silent)?;
        if release == V8 {
            let unknown = refit_engine(&engine, &Known::default(), &Sevens(&["w"]), 1, &Silent);
            library_error(unknown, &["no weight whose type is known"]);
        }
        // Nothing to give is nothing to do.
        refit_engine(&engine, &known(), &Sevens(&[]), 1, &Silent)?;
    }
    Ok(())
}

/// Has every slot's bytes, of which one differs from what the engine holds.
struct OneDiffers {
    name: &'static str,
    asked: Mutex<BTreeSet<String>>,
}

impl Feed for OneDiffers {
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error> {
        let new = self
            .asked
            .lock()
            .expect("no panic")
            .insert(slot.name.clone());
        assert!(new, "`{}` is asked for twice", slot.name);
        Ok(Some(Cow::Owned(7f32.to_le_bytes().repeat(slot.count))))
    }

    fn differs(&self, slot: &Slot) -> bool {
        slot.name == self.name
    }
}

fn only_what_differs() -> Result<(), Failed> {
    let asked = |release, name| -> Result<Vec<String>, Failed> {
        let fake = fake(release, "");
        let feed = OneDiffers {
            name,
            asked: Mutex::default(),
        };
        refit_engine(&engine(&fake.core())?, &known(), &feed, 1, &Silent)?;
        Ok(feed.asked.into_inner()?.into_iter().collect())
    };
    for release in [V8, V10] {
        assert_eq!(asked(release, "c")?, ["c"]);
        assert_eq!(asked(release, "w")?, ["b", "w"]);
        assert!(asked(release, "nothing")?.is_empty());
    }
    // Its list of what is missing is known to leave some out.
    assert_eq!(asked(RTX, "c")?, ["b", "c", "w"]);
    Ok(())
}

fn slots() -> Result<(), Failed> {
    let by_name = |release, known: &Known| -> Result<BTreeMap<String, (usize, bool)>, Failed> {
        let fake = fake(release, "");
        let listed = list_slots(&engine(&fake.core())?, known)?;
        Ok(listed
            .into_iter()
            .map(|s| (s.name, (s.count, s.refittable)))
            .collect())
    };
    let nothing = Known::default();
    let expect = |rows: &[(&str, usize, bool)]| {
        rows.iter()
            .map(|&(n, c, r)| (n.to_owned(), (c, r)))
            .collect::<BTreeMap<_, _>>()
    };
    // Version 8 tells no types.
    assert_eq!(
        by_name(V8, &nothing)?,
        expect(&[("w", 0, false), ("b", 0, false), ("c", 0, false)])
    );
    assert_eq!(
        by_name(V10, &nothing)?,
        expect(&[("w", 16, true), ("b", 4, true), ("c", 4, true)])
    );
    // What is known but not listed is baked in; what is known as structural stays so.
    let mut more = known();
    more.slots.push(f32_slot("folded", &[4]));
    more.slots[1].refittable = false;
    let expected = expect(&[
        ("w", 16, true),
        ("b", 4, false),
        ("c", 4, true),
        ("folded", 4, false),
    ]);
    assert_eq!(by_name(V8, &more)?, expected);
    assert_eq!(by_name(RTX, &more)?, expected);
    let fake = fake(V10, "");
    let engine = engine(&fake.core())?;
    fake.set_fault("not refittable");
    assert!(list_slots(&engine, &known())?.iter().all(|s| !s.refittable));
    Ok(())
}

fn enqueue_false() -> Result<(), Failed> {
    let fake = fake(V10, "");
    let context = Rc::new(engine(&fake.core())?).context()?;
    fake.set_fault("enqueue");
    #[allow(unsafe_code)]
    // SAFETY: the stand-in fails before it looks at anything.
    let result = unsafe { context.enqueue(std::ptr::null_mut()) };
    library_error(result, &["enqueueV3 failed", "illegal memory access"]);
    Ok(())
}

fn library_dropped_first() -> Result<(), Failed> {
    let fake = fake(V10, "");
    let core = fake.core();
    let plan = build(&core, &Silent)?;
    let runtime = Runtime::new(&core)?;
    let engine = Rc::new(runtime.deserialize(&plan)?);
    let context = engine.context()?;
    drop((core, runtime, engine));
    assert!(context.set_input_shape("x", &[1, 4])?);
    assert_eq!(fake.alive(), 3, "runtime, engine and context");
    drop(context);
    assert_eq!(fake.alive(), 0);
    let memory = {
        let core = fake.core();
        self::engine(&core)?.serialize()?
    };
    assert!(memory.bytes().starts_with(b"ftrt"));
    Ok(())
}

fn job_on(fake: &StandIn, options: &[(&str, &str)]) -> Result<(Vec<u8>, Vec<Slot>), Error> {
    let model = trtmut::onnx::Model::open(onnx())?;
    let (_, mut profile) = model_profile();
    profile.inputs.truncate(1);
    profile.inputs[0].name = "x".into();
    profile.inputs[0].axes.truncate(2);
    for (axis, (min, max)) in profile.inputs[0].axes.iter_mut().zip([(1usize, 3), (4, 4)]) {
        (axis.min, axis.opt, axis.max) = (min, min.midpoint(max), Some(max));
    }
    let options: BTreeMap<String, String> = options
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect();
    let mut plan = Vec::new();
    let notes = fake.backend().build(
        &BuildJob {
            model: &model,
            profile: &profile,
            options: &options,
            mark: None,
        },
        &mut plan,
        &Silent,
    )?;
    Ok((plan, notes.slots))
}

fn model_profile() -> (trtmut::onnx::Model, trtmut::shapes::Profile) {
    model("resnet", "ts")
}

fn needs_a_gpu() -> Result<(), Failed> {
    let fake = fake(V8, "");
    if fake.backend().gpu().is_ok() {
        return Ok(());
    }
    let e = job_on(&fake, &[]).expect_err("TensorRT builds on its GPU");
    assert!(
        matches!(e, Error::Unavailable { .. }) && e.to_string().contains("needs a CUDA device"),
        "{e}"
    );
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("p.plan");
    std::fs::write(&path, build(&fake.core(), &Silent)?)?;
    let e = fake.backend().open(&path).err().ok_or("there is no GPU")?;
    assert!(matches!(e, Error::Unavailable { .. }), "{e}");
    assert_eq!(fake.alive(), 0);
    Ok(())
}

fn ahead_of_time() -> Result<(), Failed> {
    for release in [RTX, "rtx-1.3"] {
        let fake = fake(release, "");
        let options = [
            ("refit", "none"),
            ("compute-capability", "8.6,8.9"),
            ("opt-level", "3"),
        ];
        let (plan, slots) = job_on(&fake, &options)?;
        assert!(plan.starts_with(b"vtrt"));
        assert!(!slots.is_empty() && slots.iter().all(|s| !s.refittable));
        assert_eq!(fake.alive(), 0);
    }
    // 12.1 came with TensorRT-RTX 1.5.
    let fake = fake("rtx-1.3", "");
    let e =
        job_on(&fake, &[("refit", "none"), ("compute-capability", "12.1")]).expect_err("not yet");
    assert!(e.to_string().contains("compute capability"), "{e}");
    Ok(())
}

/// TensorRT 11.3 has no headers here, and a fault that its own release notes tell: what its neighbours agree on is enough for
/// everything but that.
fn fault_of_11_3() -> Result<(), Failed> {
    let mut release = Release::named("trt-11.1");
    release.version = [11, 3, 0];
    let fake = StandIn::compile(&release, &[]);
    let core = fake.core();
    assert_eq!(
        core.loaded().release.basis.to_string(),
        "what the headers of 11.1.0 and 11.4.0 agree on"
    );
    assert!(core.loaded().can_build());
    Ok(())
}
