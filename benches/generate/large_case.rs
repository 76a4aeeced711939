//! Writes a large case for `benches/memory.sh`: `model.onnx` with its weights in `model.onnx.data`, the checkpoint `base.safetensors`
//! with the same values, and `changed.safetensors`, where every eighth matrix has a change of low rank.
//!
//! Usage: `large_case FOLDER MATRICES SIDE`, for a chain of that many square f32 matrices.

use onnx_protobuf::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_proto, tensor_shape_proto, type_proto,
};
use protobuf::{EnumOrUnknown, Message, MessageField};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let wrong = || io::Error::other("usage: large_case FOLDER MATRICES SIDE");
    let [_, folder, matrices, side] = &args[..] else {
        return Err(wrong());
    };
    let matrices: usize = matrices.parse().map_err(|_| wrong())?;
    let side: usize = side.parse().map_err(|_| wrong())?;
    let folder = Path::new(folder);
    std::fs::write(
        folder.join("model.onnx"),
        model(matrices, side)
            .write_to_bytes()
            .map_err(io::Error::other)?,
    )?;
    let create =
        |name: &str| File::create(folder.join(name)).map(|f| BufWriter::with_capacity(1 << 20, f));
    let mut data = create("model.onnx.data")?;
    let header = header(matrices, side);
    let (mut base, mut changed) = (create("base.safetensors")?, create("changed.safetensors")?);
    for file in [&mut base, &mut changed] {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
    }
    for i in 0..matrices {
        let mut random = ChaCha8Rng::seed_from_u64(i as u64);
        let mut value = || random.random_range(-0.02f32..0.02);
        // As the exporter stores it for MatMul: transposed from the checkpoint's.
        let weight: Vec<f32> = (0..side * side).map(|_| value()).collect();
        data.write_all(bytemuck::cast_slice(&weight))?;
        let mut turned = vec![0f32; side * side];
        for (r, row) in weight.chunks_exact(side).enumerate() {
            for (c, v) in row.iter().enumerate() {
                turned[c * side + r] = *v;
            }
        }
        base.write_all(bytemuck::cast_slice(&turned))?;
        if i % 8 == 0 {
            let up: Vec<f32> = (0..side).map(|_| value()).collect();
            let down: Vec<f32> = (0..side).map(|_| value()).collect();
            for (r, row) in turned.chunks_exact_mut(side).enumerate() {
                row.iter_mut().zip(&down).for_each(|(v, d)| *v += up[r] * d);
            }
        }
        changed.write_all(bytemuck::cast_slice(&turned))?;
    }
    data.flush()?;
    base.flush()?;
    changed.flush()
}

fn header(matrices: usize, side: usize) -> String {
    let bytes = 4 * side * side;
    let rows: Vec<String> = (0..matrices)
        .map(|i| {
            format!(
                r#""blocks.{i}.proj.weight":{{"dtype":"F32","shape":[{side},{side}],"data_offsets":[{},{}]}}"#,
                i * bytes,
                (i + 1) * bytes
            )
        })
        .collect();
    let text = format!("{{{}}}", rows.join(","));
    let padding = text.len().next_multiple_of(8) - text.len();
    text + &" ".repeat(padding)
}

fn value(name: &str, side: usize) -> ValueInfoProto {
    let dim = |n: i64| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(n)),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: 1,
        shape: MessageField::some(TensorShapeProto {
            dim: vec![dim(1), dim(side as i64)],
            ..Default::default()
        }),
        ..Default::default()
    };
    ValueInfoProto {
        name: name.into(),
        type_: MessageField::some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn model(matrices: usize, side: usize) -> ModelProto {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: key.into(),
        value,
        ..Default::default()
    };
    let bytes = 4 * side * side;
    let mut graph = GraphProto {
        name: "large".into(),
        input: vec![value("h0", side)],
        output: vec![value(&format!("h{matrices}"), side)],
        ..Default::default()
    };
    for i in 0..matrices {
        let weight = format!("onnx::MatMul_{i}");
        graph.initializer.push(TensorProto {
            name: weight.clone(),
            dims: vec![side as i64, side as i64],
            data_type: 1,
            data_location: EnumOrUnknown::new(tensor_proto::DataLocation::EXTERNAL),
            external_data: vec![
                entry("location", "model.onnx.data".into()),
                entry("offset", (i * bytes).to_string()),
                entry("length", bytes.to_string()),
            ],
            ..Default::default()
        });
        graph.node.push(NodeProto {
            name: format!("/blocks.{i}/proj/MatMul"),
            op_type: "MatMul".into(),
            input: vec![format!("h{i}"), weight],
            output: vec![format!("h{}", i + 1)],
            ..Default::default()
        });
    }
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 17,
            ..Default::default()
        }],
        graph: MessageField::some(graph),
        ..Default::default()
    }
}
