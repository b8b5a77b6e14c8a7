//! The engine rten: what goes in and out of it, and what it refuses. It needs no library.

use super::graph::{BOOLEAN, F32, Graph, S64};
use super::*;

fn house(limits: &[&str]) -> House {
    House::with(Some(PathBuf::from("/nowhere/libonnxruntime.so")), 2, limits)
}

impl House {
    async fn on_rten(&self, name: &str, graph: Graph) -> Lease {
        self.shelf.write(name, &[("model.onnx", &graph.model())]);
        self.models.open("default", &format!("{name}@rten")).await.unwrap()
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[tokio::test]
async fn every_dtype_that_rten_has_goes_in_and_out() {
    let house = house(&[]);
    let elements = [
        (DType::F32, 1),
        (DType::U8, 2),
        (DType::S8, 3),
        (DType::S32, 6),
        (DType::S64, 7),
        (DType::Boolean, 9),
        (DType::F16, 10),
    ];
    for (dtype, element) in elements {
        for (shape, dims) in [("n m", &[2, 3][..]), ("n m", &[0, 3]), ("", &[]), ("1", &[1])] {
            let name = format!("identity-{dtype}-{}", shape.len());
            let graph = Graph::default().input("x", element, shape).output("y", element, shape);
            let lease = house.on_rten(&name, graph.node("Identity", &["x"], &["y"])).await;
            assert_eq!(lease.signature().inputs[0].dtype, dtype);
            let elements: u64 = dims.iter().product();
            let size = dtype.size_bytes().unwrap();
            // Small numbers of any width: their lowest byte is 0 or 1.
            let byte = |i: u64| u8::from(i.is_multiple_of(size) && (i / size) % 2 == 1);
            let bytes: Vec<u8> = (0..elements * size).map(byte).collect();
            let x = house.tensor(dtype, dims, &bytes);
            let account = house.account();
            let outputs = infer(&lease, &account, &[("x", &x)]).await.unwrap();
            assert_eq!((outputs[0].0.as_str(), outputs[0].1.dtype()), ("y", dtype));
            assert_eq!(outputs[0].1.shape().dims(), dims);
            assert_eq!(outputs[0].1.host_bytes().unwrap(), bytes, "{dtype} {dims:?}");
            drop(outputs);
            assert_eq!(account.used_bytes(), 0);
        }
    }
    for (element, word) in [(11, "f64"), (16, "bf16"), (4, "u16"), (5, "s16"), (12, "u32"), (13, "u64"), (8, "text")] {
        let graph = Graph::default().input("x", element, "n").output("y", element, "n");
        house.shelf.write(word, &[("model.onnx", &graph.node("Identity", &["x"], &["y"]).model())]);
        let error = house.models.open("default", &format!("{word}@rten")).await.map(drop).unwrap_err();
        assert!(error.message().contains(&format!("rten has no tensors of {word}")), "{error}");
    }
}

#[tokio::test]
async fn integers_that_rten_cannot_hold_are_refused() {
    let house = house(&[]);
    let graph = Graph::default().input("x", S64, "n").output("y", S64, "n").node("Identity", &["x"], &["y"]);
    let lease = house.on_rten("s64", graph).await;
    for (value, taken) in
        [(i64::from(i32::MAX), true), (i64::from(i32::MIN), true), (i64::from(i32::MAX) + 1, false), (i64::MIN, false)]
    {
        let x = house.tensor(DType::S64, &[1], &value.to_le_bytes());
        match infer(&lease, &house.account(), &[("x", &x)]).await {
            Ok(outputs) => assert_eq!((taken, outputs[0].1.host_bytes().unwrap()), (true, &value.to_le_bytes()[..])),
            Err(error) => {
                assert_eq!((taken, error.kind()), (false, Kind::InvalidArgument));
                assert!(error.message().contains("input 'x': rten computes s64 as s32"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn what_rten_makes_belongs_to_the_account_and_outlives_the_model() {
    let house = house(&[]);
    let graph = Graph::default()
        .input("x", F32, "n")
        .constant("w", &[2], &[5.0, 6.0])
        .node("Add", &["x", "x"], &["y"])
        .node("Greater", &["x", "x"], &["z"])
        .output("x", F32, "n")
        .output("w", F32, "2")
        .output("y", F32, "n")
        .output("z", BOOLEAN, "n");
    let lease = house.on_rten("passes", graph).await;
    let ledger = house.device.ledger();
    assert_eq!(ledger.used_by(OwnerKind::Model), package(&house.shelf.folder("passes")).weights_bytes());
    let x = house.floats(&[3], &[1.0, 2.0, 3.0]);
    let account = house.account();
    let outputs = infer(&lease, &account, &[("x", &x)]).await.unwrap();
    drop((x, lease));
    assert!(house.models.unload("passes").await);
    for ((name, tensor), values) in outputs.iter().zip([&[1.0, 2.0, 3.0][..], &[5.0, 6.0], &[2.0, 4.0, 6.0]]) {
        assert_eq!(tensor.host_bytes().unwrap(), bytes_of(values), "{name}");
    }
    assert_eq!(outputs[3].1.host_bytes().unwrap(), [0, 0, 0]);
    assert_eq!(account.used_bytes(), 12 + 8 + 12 + 3);
    drop(outputs);
    assert_eq!((account.used_bytes(), ledger.used_bytes()), (0, 0));

    // The copies that rten needs of some dtypes are paid for, too.
    let flags = Graph::default().input("x", BOOLEAN, "n").output("y", BOOLEAN, "n").node("Not", &["x"], &["y"]);
    let lease = house.on_rten("flags", flags).await;
    let flags = house.tensor(DType::Boolean, &[8], &[1; 8]);
    let small = house.device.ledger().account(Owner::Workspace, 31, 10);
    let error = infer(&lease, &small, &[("x", &flags)]).await.unwrap_err();
    assert_eq!((error.kind(), small.used_bytes()), (Kind::LimitExceeded, 0));
}

#[tokio::test]
async fn external_data_is_read_beside_the_model() {
    let house = house(&[]);
    let graph = |place| {
        let graph = Graph::default().input("x", F32, "n").located("w", &[1], place, 4, 4);
        graph.node("Add", &["x", "w"], &["y"]).output("y", F32, "n").model()
    };
    let data = [1.5f32.to_le_bytes(), 2.5f32.to_le_bytes()].concat();
    house.shelf.write("external", &[("model.onnx", &graph("model.onnx.data")), ("model.onnx.data", &data)]);
    let lease = house.models.open("default", "external@rten").await.unwrap();
    let x = house.floats(&[2], &[1.0, -1.0]);
    let outputs = infer(&lease, &house.account(), &[("x", &x)]).await.unwrap();
    assert_eq!(outputs[0].1.host_bytes().unwrap(), bytes_of(&[3.5, 1.5]));
    std::fs::write(house.shelf.folder.as_ref().unwrap().path().join("secret.data"), &data).unwrap();
    for place in ["../secret.data", "/etc/passwd"] {
        house.shelf.write("escape", &[("model.onnx", &graph(place))]);
        let error = house.models.open("default", "escape@rten").await.map(drop).unwrap_err();
        assert!(error.message().contains("disallowed path"), "{error}");
    }
}

#[tokio::test]
async fn wrong_inputs_and_models_say_why() {
    let house = house(&[]);
    let graph = Graph::default().input("a", F32, "n").input("b", F32, "m");
    let lease = house.on_rten("add", graph.node("Add", &["a", "b"], &["c"]).output("c", F32, "k")).await;
    let (two, three) = (house.floats(&[2], &[0.0; 2]), house.floats(&[3], &[0.0; 3]));
    let account = house.account();
    let error = infer(&lease, &account, &[("a", &two), ("b", &three)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().starts_with("model 'add': the model refuses these inputs"), "{error}");
    assert_eq!(account.used_bytes(), 0);

    let broken = Graph::default().input("a", F32, "n").node("Nonsense", &["a"], &["c"]).output("c", F32, "n").model();
    for (model, part) in [
        (b"garbage".repeat(100), "cannot be read as ONNX"),
        (broken[..broken.len() - 9].to_vec(), "cannot be read as ONNX"),
        (broken, "Nonsense"),
    ] {
        house.shelf.write("wrong", &[("model.onnx", &model)]);
        let error = house.models.open("default", "wrong@rten").await.map(drop).unwrap_err();
        let folder = house.shelf.folder.as_ref().unwrap().path().to_str().unwrap();
        assert!(error.message().contains(part) && !error.message().contains(folder), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_run_goes_on_at_its_end_and_its_tensors_stay_paid() {
    let house = house(&[]);
    let lease = house.on_rten("long", long()).await;
    let x = house.floats(&[384, 384], &[1.0; 384 * 384]);
    let account = x.account().clone();
    let late = Stop::new(Some(Instant::now() + Duration::from_millis(100)));
    let begun = Instant::now();
    let error = lease.infer(&house.account(), vec![("x".to_owned(), x)], &late).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    // rten works on, and so its input is there and paid for.
    assert_eq!(account.used_bytes(), 384 * 384 * 4);
    while account.used_bytes() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(300), "the run must end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(house.models.states()[0].runs, 1);
}
