//! Results of rewritten operators and of converted types.

use super::*;

#[test]
fn the_first_of_equal_extremes_is_found_on_every_axis() {
    let x = || floats(&[2, 3], &[1.0, 5.0, 5.0, 7.0, 7.0, 2.0]);
    let arg = |op: &str, axis: i64, keep: i64, last: i64| {
        unary(13, op, Dtype::F32, Dtype::I64)
            .int("axis", axis)
            .int("keepdims", keep)
            .int("select_last_index", last)
            .run(&[("x", x())])
            .unwrap()
            .remove(0)
    };
    assert_eq!(arg("ArgMax", 1, 1, 0), longs(&[2, 1], &[1, 0]));
    assert_eq!(arg("ArgMax", -1, 0, 0), longs(&[2], &[1, 0]));
    assert_eq!(arg("ArgMax", -1, 0, 1), longs(&[2], &[2, 1]));
    assert_eq!(arg("ArgMax", 0, 1, 0), longs(&[1, 3], &[1, 1, 0]));
    assert_eq!(arg("ArgMin", -2, 0, 0), longs(&[3], &[0, 0, 1]));
    let ties = longs(&[4], &[3, 3, 3, 3]);
    let all = unary(13, "ArgMin", Dtype::I64, Dtype::I64).run(&[("x", ties)]);
    assert_eq!(all.unwrap()[0], longs(&[1], &[0]));
    // As NumPy has it: NaN is the extreme.
    let nan = floats(&[3], &[1.0, f32::NAN, 9.0]);
    for op in ["ArgMax", "ArgMin"] {
        let found = unary(13, op, Dtype::F32, Dtype::I64).run(&[("x", nan.clone())]);
        assert_eq!(found.unwrap()[0], longs(&[1], &[1]));
    }
}

#[test]
fn softmax_before_opset_13_is_over_all_axes_from_its_own() {
    let x = || floats(&[1, 2, 2], &[0.0, 1.0, 2.0, 3.0]);
    let shares = |values: &[f32]| {
        let sum: f32 = values.iter().map(|v| v.exp()).sum();
        values.iter().map(|v| v.exp() / sum).collect::<Vec<f32>>()
    };
    let whole = shares(&[0.0, 1.0, 2.0, 3.0]);
    let rows = [shares(&[0.0, 1.0]), shares(&[2.0, 3.0])].concat();
    let softmax = |graph: Graph| graph.run(&[("x", x())]).unwrap().remove(0);
    let old = || unary(11, "Softmax", Dtype::F32, Dtype::F32);
    close(&softmax(old()), &floats(&[1, 2, 2], &whole));
    close(&softmax(old().int("axis", 0)), &floats(&[1, 2, 2], &whole));
    close(&softmax(old().int("axis", -2)), &floats(&[1, 2, 2], &whole));
    close(&softmax(old().int("axis", 2)), &floats(&[1, 2, 2], &rows));
    close(&softmax(old().int("axis", -1)), &floats(&[1, 2, 2], &rows));
    let new = unary(13, "Softmax", Dtype::F32, Dtype::F32);
    close(&softmax(new), &floats(&[1, 2, 2], &rows));
    let logs: Vec<f32> = whole.iter().map(|v| v.ln()).collect();
    let log = unary(11, "LogSoftmax", Dtype::F32, Dtype::F32);
    close(&softmax(log), &floats(&[1, 2, 2], &logs));
}

#[test]
fn windows_have_their_defaults() {
    let conv = Graph::new(11, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
        .constant("w", &floats(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]))
        .node("Conv", &["x", "w"], &["y"]);
    let x = floats(&[1, 1, 2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, 0.0]);
    let y = conv.run(&[("x", x.clone())]).unwrap();
    close(&y[0], &floats(&[1, 1, 1, 2], &[5.0, 7.0]));
    let pool = unary(12, "MaxPool", Dtype::F32, Dtype::F32).ints("kernel_shape", &[1, 2]);
    let y = pool.run(&[("x", x)]).unwrap();
    close(&y[0], &floats(&[1, 1, 2, 2], &[1.0, 2.0, 1.0, 1.0]));
    let same = |stride: i64, dilation: i64| {
        let mut graph = Graph::new(11, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
            .constant("w", &floats(&[1, 1, 3], &[1.0, 10.0, 100.0]))
            .node("Conv", &["x", "w"], &["y"])
            .ints("strides", &[stride])
            .ints("dilations", &[dilation]);
        graph.last().attribute.push(AttributeProto {
            name: "auto_pad".into(),
            type_: AttributeType::STRING.into(),
            s: b"SAME_UPPER".to_vec(),
            ..AttributeProto::new()
        });
        let x = floats(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
        graph.run(&[("x", x)]).unwrap().remove(0)
    };
    // One extent of padding in all, behind; then four, two on either side.
    close(&same(2, 1), &floats(&[1, 1, 2], &[321.0, 43.0]));
    close(
        &same(1, 2),
        &floats(&[1, 1, 4], &[310.0, 420.0, 31.0, 42.0]),
    );
    let unknown = Graph::new(
        11,
        vec![open("x", Dtype::F32), open("w", Dtype::F32)],
        vec![open("y", Dtype::F32)],
    )
    .node("Conv", &["x", "w"], &["y"]);
    assert!(unknown.refusals()[0].reason.contains("kernel_shape"));
}

#[test]
fn bool_is_anything_but_zero_and_sign_of_zero_is_zero() {
    let to_bool = || unary(13, "Cast", Dtype::F32, Dtype::Bool).int("to", 9);
    let x = floats(&[5], &[0.5, 0.0, -0.0, -3.0, f32::NAN]);
    let y = to_bool().run(&[("x", x)]).unwrap();
    assert_eq!(y[0], bools(&[5], &[true, false, false, true, true]));
    let sign = unary(13, "Sign", Dtype::F32, Dtype::F32);
    let y = sign.run(&[("x", floats(&[4], &[-2.0, 0.0, -0.0, 0.5]))]);
    assert_eq!(y.unwrap()[0], floats(&[4], &[-1.0, 0.0, 0.0, 1.0]));
    let sign = unary(13, "Sign", Dtype::I64, Dtype::I64);
    let y = sign.run(&[("x", longs(&[3], &[-7, 0, 9]))]);
    assert_eq!(y.unwrap()[0], longs(&[3], &[-1, 0, 1]));
}

#[test]
fn a_product_with_a_vector_has_the_right_shape_or_is_refused_when_it_runs() {
    let graph = |b: ValueInfoProto| {
        Graph::new(
            13,
            vec![open("a", Dtype::F32), b],
            vec![open("y", Dtype::F32)],
        )
        .node("MatMul", &["a", "b"], &["y"])
    };
    let a = || floats(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let vector = || floats(&[2], &[10.0, 1.0]);
    let y = graph(fixed("b", Dtype::F32, &[2])).run(&[("a", a()), ("b", vector())]);
    assert_eq!(y.unwrap()[0], floats(&[2, 1], &[12.0, 34.0]));
    let blind = graph(open("b", Dtype::F32)).run(&[("a", a()), ("b", vector())]);
    assert!(refused(blind)[0].reason.contains("vector"));
    let matrix = floats(&[2, 1], &[10.0, 1.0]);
    let y = graph(open("b", Dtype::F32)).run(&[("a", a()), ("b", matrix)]);
    assert_eq!(y.unwrap()[0], floats(&[2, 1, 1], &[12.0, 34.0]));
}

#[test]
fn no_i64_wraps() {
    let binary = |op: &str| {
        Graph::new(
            13,
            vec![open("a", Dtype::I64), open("b", Dtype::I64)],
            vec![open("y", Dtype::I64)],
        )
        .node(op, &["a", "b"], &["y"])
    };
    let run = |op: &str, a: i64, b: i64| {
        binary(op).run(&[("a", longs(&[2], &[a, 1])), ("b", longs(&[], &[b]))])
    };
    assert_eq!(run("Mul", -3, 7).unwrap()[0], longs(&[2], &[-21, 7]));
    assert_eq!(
        run("Add", 1_900_000_000, -5).unwrap()[0],
        longs(&[2], &[1_899_999_995, -4])
    );
    for (op, a, b) in [
        ("Mul", 100_000, 100_000),
        ("Add", 2_000_000_000, 2_000_000_000),
        ("Sub", -2_000_000_000, 2_000_000_000),
        ("Pow", 10, 10),
    ] {
        let refusals = refused(run(op, a, b));
        assert_eq!(refusals[0].operator, op);
        assert!(refusals[0].reason.contains("32 bits"));
    }
    let sum = unary(13, "ReduceSum", Dtype::I64, Dtype::I64);
    assert!(!refused(sum.run(&[("x", longs(&[2], &[2_000_000_000, 2_000_000_000]))])).is_empty());
    let cast = || unary(13, "Cast", Dtype::F32, Dtype::I64).int("to", 7);
    assert_eq!(
        cast().run(&[("x", floats(&[2], &[-2.7, 2.7]))]).unwrap()[0],
        longs(&[2], &[-2, 2])
    );
    for bad in [3e9, f32::NAN, f32::NEG_INFINITY] {
        assert!(!refused(cast().run(&[("x", floats(&[1], &[bad]))])).is_empty());
    }
    let given = run("Add", 1 << 40, 0);
    assert!(matches!(given, Err(Error::Input { name, .. }) if name == "a"));
    // Nothing to check in a tensor without elements.
    let empty = binary("Mul").run(&[("a", longs(&[0], &[])), ("b", longs(&[], &[2]))]);
    assert_eq!(empty.unwrap()[0], longs(&[0], &[]));
}

#[test]
fn wide_constants_may_only_end_slices() {
    let slice = |through: bool| {
        let graph = Graph::new(13, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
            .constant("start", &longs(&[1], &[1]))
            .constant("axis", &longs(&[1], &[0]));
        let graph = if through {
            graph
                .constant("max", &longs(&[], &[i64::MAX]))
                .constant("zero", &longs(&[1], &[0]))
                .node("Unsqueeze", &["max", "zero"], &["end"])
        } else {
            graph.constant("end", &longs(&[1], &[i64::MAX]))
        };
        graph.node("Slice", &["x", "start", "end", "axis"], &["y"])
    };
    for through in [false, true] {
        let y = slice(through).run(&[("x", floats(&[3], &[1.0, 2.0, 3.0]))]);
        assert_eq!(y.unwrap()[0], floats(&[2], &[2.0, 3.0]));
    }
    let added = Graph::new(13, vec![open("x", Dtype::I64)], vec![open("y", Dtype::I64)])
        .constant("c", &longs(&[1], &[1 << 33]))
        .node("Mod", &["x", "c"], &["y"]);
    assert!(added.refusals()[0].reason.contains("8589934592"));
}

#[test]
fn division_before_a_step_is_exact() {
    let floor = |divisor: Tensor| {
        Graph::new(13, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
            .constant("d", &divisor)
            .node("Div", &["x", "d"], &["q"])
            .node("Floor", &["q"], &["y"])
    };
    // 41 * (1 / 41) is less than 1 in f32.
    let d = || floats(&[], &[41.0]);
    let y = floor(d()).run(&[("x", floats(&[2, 1], &[41.0, 82.0]))]);
    assert_eq!(y.unwrap()[0], floats(&[2, 1], &[1.0, 2.0]));
    let y = floor(d()).run(&[("x", floats(&[], &[41.0]))]);
    assert_eq!(y.unwrap()[0], floats(&[], &[1.0]));
    let y = floor(d()).run(&[("x", floats(&[0, 3], &[]))]);
    assert_eq!(y.unwrap()[0], floats(&[0, 3], &[]));
}

#[test]
fn quantising_divides_and_rounds_to_even() {
    let graph = Graph::new(
        13,
        vec![fixed("x", Dtype::F32, &[2, 2])],
        vec![open("y", Dtype::U8)],
    )
    .constant("scale", &floats(&[2], &[49.0, 2.0]))
    .constant("zero", &bytes(&[2], &[0, 128]))
    .node("QuantizeLinear", &["x", "scale", "zero"], &["y"]);
    let x = floats(&[2, 2], &[49.0 * 2.5, 3.0, 1e9, -1e9]);
    assert_eq!(
        graph.run(&[("x", x)]).unwrap()[0],
        bytes(&[2, 2], &[2, 130, 255, 0])
    );
}

#[test]
fn narrow_floats_are_computed_in_f32_and_rounded_once() {
    // 1 + 2^-11 is between two f16; in f16 steps the sum would stay 1.
    let small = f16::from_f32(2f32.powi(-11));
    let graph = Graph::new(13, vec![open("x", Dtype::F16)], vec![open("y", Dtype::F16)])
        .constant("w", &halves(&[1], &[small]))
        .node("Add", &["x", "w"], &["a"])
        .node("Add", &["a", "w"], &["y"]);
    let (mut e, notes) = engine(&graph.model()).unwrap();
    assert_eq!(notes.notes, ["f16 computed in f32"]);
    assert_eq!(e.inputs()[0].dtype, Dtype::F16);
    assert_eq!(e.slots().unwrap()[0].dtype, Dtype::F16);
    let y = run(&mut *e, &[("x", halves(&[1], &[f16::ONE]))]).unwrap();
    assert_eq!(y[0], halves(&[1], &[f16::from_f32(1.0 + 2f32.powi(-10))]));

    let graph = Graph::new(
        13,
        vec![open("x", Dtype::Bf16)],
        vec![open("y", Dtype::Bf16)],
    )
    .constant("w", &brains(&[1], &[bf16::from_f32(3.0)]))
    .node("Mul", &["x", "w"], &["y"]);
    let y = graph.run(&[("x", brains(&[2], &[bf16::from_f32(0.5), bf16::INFINITY]))]);
    let want = [bf16::from_f32(1.5), bf16::INFINITY];
    assert_eq!(y.unwrap()[0], brains(&[2], &want));
}

#[test]
fn an_f64_that_no_f32_holds_is_refused() {
    let scaled = |w: f64| {
        Graph::new(13, vec![open("x", Dtype::F64)], vec![open("y", Dtype::F64)])
            .constant("w", &doubles(&[1], &[w]))
            .node("Mul", &["x", "w"], &["y"])
    };
    let y = scaled(2.0).run(&[("x", doubles(&[1], &[1.5]))]);
    assert_eq!(y.unwrap()[0], doubles(&[1], &[3.0]));
    assert!(matches!(
        scaled(2.0).run(&[("x", doubles(&[1], &[1e300]))]),
        Err(Error::Input { .. })
    ));
    // In a weight it is seen when the plan is built.
    let told = scaled(1e300).refusals();
    assert!(told[0].reason.contains("weight `w`"), "{told:?}");
}
