//! The check of uploads: which engines a model passes on, and why not on others. Jobs run in threads of this process here; the
//! system tests have the real children.

use super::graph::{BOOLEAN, F32, Graph, S64, U8};
use super::*;

impl House {
    async fn check(&self, name: &str, files: &[(&str, &[u8])], asked: Option<EngineChoice>) -> Result<Checked> {
        let package = self.shelf.write(name, files);
        let outcome = self.models.inspect(&package, name, asked).await.map(|(_, checked)| checked);
        assert_eq!(self.device.ledger().used_bytes(), 0);
        outcome
    }
}

fn verdict(checked: &Checked, engine: EngineName) -> &Verdict {
    checked.engines.iter().find(|verdict| verdict.engine == engine).unwrap()
}

fn relu() -> Graph {
    Graph::default().input("x", F32, "n 3").node("Relu", &["x"], &["y"]).output("y", F32, "n 3")
}

/// Without a library.
fn bare() -> House {
    House::with(Some(PathBuf::from("/nowhere/libonnxruntime.so")), 1, &[])
}

#[tokio::test]
async fn both_engines_pass_what_they_run_alike() {
    let Some(house) = House::new(1) else { return };
    let checked = house.check("relu", &[("model.onnx", &relu().model())], None).await.unwrap();
    assert_eq!(checked.engine, EngineChoice::Auto);
    for engine in EngineName::ALL {
        assert!(checked.allows(engine) && verdict(&checked, engine).runs >= 4, "{checked:?}");
    }
    let rten = verdict(&checked, EngineName::Rten);
    assert_eq!((rten.difference, rten.compared), (Some(0.0), rten.runs));
    assert_eq!(house.models.engine_of(&checked).unwrap(), EngineName::Onnxruntime);
}

#[tokio::test]
async fn without_onnxruntime_rten_is_judged_alone() {
    let house = bare();
    let checked = house.check("relu", &[("model.onnx", &relu().model())], None).await.unwrap();
    assert_eq!(checked.engines.len(), 1);
    let rten = verdict(&checked, EngineName::Rten);
    assert!(rten.passed && rten.runs >= 4 && rten.compared == 0 && rten.difference.is_none(), "{rten:?}");
    assert_eq!(house.models.engine_of(&checked).unwrap(), EngineName::Rten);
    let unknown = Graph::default().input("x", F32, "n").node("Nonsense", &["x"], &["y"]).output("y", F32, "n").model();
    let error = house.check("unknown", &[("model.onnx", &unknown)], None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    for part in ["rten: ", "Nonsense", "HEARTH_ORT_LIB"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn an_engine_that_answers_otherwise_is_refused_with_the_reason() {
    let Some(house) = House::new(1) else { return };
    // rten counts in s32 what is s64.
    let graph = Graph::default().input("x", S64, "n").node("Mul", &["x", "x"], &["y"]).output("y", S64, "n").model();
    let checked = house.check("square", &[("model.onnx", &graph)], None).await.unwrap();
    assert!(checked.allows(EngineName::Onnxruntime) && !checked.allows(EngineName::Rten), "{checked:?}");
    let reason = verdict(&checked, EngineName::Rten).reason.as_ref().unwrap();
    assert!(reason.contains("its output 'y' differs from onnxruntime's"), "{reason}");
    let error = house.check("square", &[("model.onnx", &graph)], Some(EngineChoice::Rten)).await.unwrap_err();
    assert!(error.message().contains("rten: its output 'y' differs"), "{error}");
    assert!(error.kind() == Kind::Unsupported && !error.message().contains("onnxruntime: "), "{error}");
}

#[tokio::test]
async fn sizes_that_a_model_does_not_take_are_no_fault() {
    let house = House::new(1).unwrap_or_else(bare);
    // Only n = 1 and n = 64 can be added to 64.
    let fits = Graph::default().input("x", F32, "m n").constant("w", &[64], &[1.0; 64]);
    let fits = fits.node("Add", &["x", "w"], &["y"]).output("y", F32, "m k").model();
    let checked = house.check("fits", &[("model.onnx", &fits)], None).await.unwrap();
    assert!(checked.engines.iter().all(|verdict| verdict.passed && verdict.runs == 2), "{checked:?}");
    // No size that is tried is 7.
    let seven = Graph::default().input("x", F32, "n 7").input("y", F32, "n").node("MatMul", &["y", "x"], &["z"]);
    let seven = seven.node("Squeeze", &["x"], &["s"]).output("z", F32, "7").constant("w", &[7, 7], &[1.0; 49]);
    let model = seven.node("MatMul", &["w", "x"], &["never"]).output("never", F32, "7 7").model();
    let error = house.check("seven", &[("model.onnx", &model)], None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().contains("none of the") && error.message().contains("samples/"), "{error}");
}

#[tokio::test]
async fn samples_are_replayed() {
    let house = House::new(1).unwrap_or_else(bare);
    let graph = Graph::default().input("x", F32, "n 3").constant("w", &[3], &[1.0, 2.0, 3.0]);
    let model = graph.node("Mul", &["x", "w"], &["y"]).output("y", F32, "n 3").model();
    let sample = |last: f32| {
        let array = |values: &[f32]| serde_json::json!({"dtype": "f32", "shape": [1, 3], "data": values});
        let sample =
            serde_json::json!({"inputs": {"x": array(&[1.0, 1.0, 1.0])}, "outputs": {"y": array(&[1.0, 2.0, last])}});
        sample.to_string().into_bytes()
    };
    let files = |last| [("model.onnx", model.clone()), ("samples/one.json", sample(last))];
    let check = async |last| {
        let files = files(last);
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        house.check("sampled", &files, None).await
    };
    let checked = check(3.0).await.unwrap();
    assert!(checked.engines.iter().all(|verdict| verdict.passed && verdict.samples == 1), "{checked:?}");
    let error = check(4.0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().contains("sample 'one': output 'y': element 2 is 3e0 and not 4e0"), "{error}");

    let many = House::with(Some(PathBuf::from("/nowhere.so")), 1, &["samples=0"]);
    let files = files(3.0);
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let error = many.check("many", &files, None).await.unwrap_err();
    assert_eq!((error.kind(), error.message().contains("limit samples is 0")), (Kind::TooLarge, true), "{error}");
}

#[tokio::test]
async fn the_engine_is_chosen_by_model_toml_and_by_the_upload() {
    let house = bare();
    let model = relu().model();
    let check = async |toml: &str, asked| {
        house.check("chosen", &[("model.onnx", &model), ("model.toml", toml.as_bytes())], asked).await
    };
    assert_eq!(check("", None).await.unwrap().engine, EngineChoice::Auto);
    assert_eq!(check("engine = \"rten\"", None).await.unwrap().engine, EngineChoice::Rten);
    assert_eq!(check("engine = \"onnxruntime\"", None).await.unwrap_err().kind(), Kind::Unavailable);
    let checked = check("engine = \"onnxruntime\"", Some(EngineChoice::Auto)).await.unwrap();
    assert_eq!(checked.engine, EngineChoice::Auto);
    for (toml, part) in [("engine = \"tract\"", "rten"), ("motor = 1", "unknown field"), ("engine =", "model.toml")] {
        let error = check(toml, None).await.unwrap_err();
        assert!(error.kind() == Kind::InvalidArgument && error.message().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_softmax_of_old_is_not_run_on_rten_where_it_means_something_else() {
    let house = House::new(1);
    let softmax = |shape: &str, axis: Option<i64>| {
        let graph = Graph::default().input("x", F32, shape).output("y", F32, shape);
        match axis {
            None => graph.node("Softmax", &["x"], &["y"]),
            Some(axis) => graph.node_with("Softmax", &["x"], &["y"], "axis", axis),
        }
    };
    for (shape, axis, opset, same) in [
        ("n 5", None, 11, true),
        ("n 5 1 1", None, 11, false),
        ("n 5 1 1", Some(1), 11, true),
        ("n 5 2 2", Some(1), 11, false),
        ("n 5 2 2", Some(-1), 11, true),
        ("n 5 2 2", Some(3), 12, true),
        ("n 5 2 2", Some(1), 13, true),
        ("n 5 2 2", None, 13, true),
    ] {
        let model = softmax(shape, axis).model_at(opset);
        // Alone, and beside the reference, whose comparison would tell as well.
        for house in [Some(&bare()), house.as_ref()].into_iter().flatten() {
            let checked = house.check("softmax", &[("model.onnx", &model)], None).await;
            let passed = checked.as_ref().is_ok_and(|checked| checked.allows(EngineName::Rten));
            assert_eq!(passed, same, "{shape} {axis:?} {opset}: {checked:?}");
        }
    }
}

#[tokio::test]
async fn what_rten_is_known_to_read_otherwise_is_not_run_on_it() {
    let house = bare();
    let floats = || Graph::default().input("x", F32, "n 4 4");
    let flags = || Graph::default().input("b", BOOLEAN, "n 4").output("y", BOOLEAN, "k 4");
    let quantised = || {
        let outputs = |graph: Graph| graph.output("y", U8, "n 4 4").output("s", F32, "").output("z", U8, "");
        outputs(floats().node("DynamicQuantizeLinear", &["x"], &["y", "s", "z"]))
    };
    let compared = floats().node("Equal", &["x", "x"], &["e"]).node("Identity", &["e"], &["i"]);
    for (graph, reason) in [
        (floats().node("ArgMax", &["x"], &["y"]).output("y", S64, "k 4 4"), Some("rten's ArgMax gives the last")),
        (floats().node("ArgMin", &["x"], &["y"]).output("y", S64, "k 4 4"), Some("rten's ArgMin gives the last")),
        (floats().node("Sign", &["x"], &["y"]).output("y", F32, "n 4 4"), Some("gives 1 for 0")),
        (floats().node("ReduceMax", &["x"], &["y"]).output("y", F32, "k 4 4"), None),
        (flags().node_with("ReduceMax", &["b"], &["y"], "keepdims", 1), Some("ReduceMax of no booleans")),
        (compared.node("ReduceMax", &["i"], &["y"]).output("y", BOOLEAN, "k 4 4"), Some("ReduceMax of no booleans")),
        (
            floats()
                .node_with("Cast", &["x"], &["c"], "to", BOOLEAN)
                .node("ReduceMax", &["c"], &["y"])
                .output("y", BOOLEAN, "k 4 4"),
            Some("ReduceMax of no booleans"),
        ),
        (
            floats()
                .constant("s", &[3], &[1.0, 2.0, 2.0])
                .node_of("Resize", &["x", "", "s"], &["y"], "mode", "cubic")
                .output("y", F32, "a b c"),
            Some("interpolates linearly where mode is cubic"),
        ),
        (
            floats()
                .constant("s", &[3], &[1.0, 2.0, 2.0])
                .node_of("Resize", &["x", "", "s"], &["y"], "mode", "nearest")
                .output("y", F32, "a b c"),
            None,
        ),
        (quantised(), Some("rten's DynamicQuantizeLinear multiplies")),
    ] {
        let checked = house.check("misread", &[("model.onnx", &graph.model())], None).await;
        match (reason, checked) {
            (None, checked) => {
                assert!(checked.as_ref().is_ok_and(|checked| checked.allows(EngineName::Rten)), "{checked:?}")
            }
            (Some(reason), checked) => {
                let error = checked.unwrap_err();
                assert!(error.kind() == Kind::Unsupported && error.message().contains(reason), "{reason}: {error}");
            }
        }
    }
}
