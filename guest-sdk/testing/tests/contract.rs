//! Tests the SDK over the test host: every part of the contract once, and operators against values known from their definitions.

use hearth_guest::context::{self, LogLevel};
use hearth_guest::{
    Call, DType, Error, Interpolation, Kept, Model, Outcome, Outputs, PadMode, Prepared, Request, Resize, Response,
    Result, Rounding, Tensor, Typed, init, pipeline,
};
use hearth_guest_testing::{TestHost, TestModel};

fn floats(shape: &[usize], elements: &[f32]) -> Tensor {
    Tensor::from_slice(shape, elements).unwrap()
}

fn kind<T>(result: Result<T>) -> String {
    result.err().expect("it fails").kind().to_owned()
}

#[test]
fn operators_compute_what_they_are_defined_to() {
    type Case = (&'static str, Result<Tensor>, Vec<usize>, Vec<f64>);
    let host = TestHost::new();
    let check = || -> Result<Vec<Case>> {
        let x = floats(&[2, 2], &[1., 2., 3., 4.]);
        let y = floats(&[2], &[10., -1.]);
        let e = 1f64.exp();
        let soft = [1. / (1. + e), e / (1. + e)];
        let pixels = Tensor::from_slice(&[2, 2, 1], &[0u8, 255, 255, 0])?;
        let cases: Vec<Case> = vec![
            ("add", x.add(&y), vec![2, 2], vec![11., 1., 13., 3.]),
            ("subtract", x.subtract(&y), vec![2, 2], vec![-9., 3., -7., 5.]),
            ("multiply", x.multiply(&y), vec![2, 2], vec![10., -2., 30., -4.]),
            ("divide", x.divide(&y), vec![2, 2], vec![0.1, -2., 0.3, -4.]),
            ("minimum", x.minimum(&y), vec![2, 2], vec![1., -1., 3., -1.]),
            ("maximum", x.maximum(&y), vec![2, 2], vec![10., 2., 10., 4.]),
            ("softmax", x.softmax(-1), vec![2, 2], [soft, soft].concat()),
            ("argmax", x.argmax(0, true), vec![1, 2], vec![1., 1.]),
            ("top-k values", x.top_k(1).map(|(values, _)| values), vec![2, 1], vec![2., 4.]),
            ("top-k indices", x.top_k_with(2, 0, false).map(|(_, at)| at), vec![2, 2], vec![0., 0., 1., 1.]),
            ("permute", x.permute(&[1, 0]), vec![2, 2], vec![1., 3., 2., 4.]),
            ("concat", Tensor::concat(&[&x, &x.slice(0, ..1)?], 0), vec![3, 2], vec![1., 2., 3., 4., 1., 2.]),
            ("stack", Tensor::stack(&[&y, &y], 1), vec![2, 2], vec![10., 10., -1., -1.]),
            ("pad", y.pad(&[1], &[2], PadMode::Constant(0.5)), vec![5], vec![0.5, 10., -1., 0.5, 0.5]),
            ("reflect", x.pad(&[0, 1], &[0, 0], PadMode::Reflect), vec![2, 3], vec![2., 1., 2., 4., 3., 4.]),
            ("l2-normalize", floats(&[2], &[3., 4.]).l2_normalize(0), vec![2], vec![0.6, 0.8]),
            (
                "masked-mean-pool",
                x.reshape(&[1, 2, 2])?.masked_mean_pool(&Tensor::from_slice(&[1, 2], &[1i64, 0])?),
                vec![1, 2],
                vec![1., 2.],
            ),
            ("cast", floats(&[3], &[-1.5, 2.9, 300.]).cast(DType::U8), vec![3], vec![0., 2., 255.]),
            ("normalize", pixels.normalize(&[0.5], &[0.5]), vec![2, 2, 1], vec![-1., 1., 1., -1.]),
            ("crop", pixels.crop(0, 1, 2, 1), vec![2, 1, 1], vec![255., 0.]),
            ("split", x.split(1, &[1, 1]).map(|mut parts| parts.remove(1)), vec![2, 1], vec![2., 4.]),
            ("gather", x.gather(&Tensor::from_slice(&[1], &[1i64])?, 0), vec![1, 2], vec![3., 4.]),
            ("one-hot", Tensor::from_slice(&[1], &[1i64])?.one_hot(3), vec![1, 3], vec![0., 1., 0.]),
            ("sort", y.sort(0, false).map(|(values, _)| values), vec![2], vec![-1., 10.]),
            ("matmul", x.matmul(&x), vec![2, 2], vec![7., 10., 15., 22.]),
            ("reduce-mean", x.reduce_mean(&[0], false), vec![2], vec![2., 3.]),
            ("reduce-max", x.reduce_max(&[], true), vec![1, 1], vec![4.]),
            ("cumulative-sum", x.cumulative_sum(0), vec![2, 2], vec![1., 2., 4., 6.]),
            ("less", x.less(&y), vec![2, 2], vec![1., 0., 1., 0.]),
            ("select", x.less(&y)?.select(&x, &y), vec![2, 2], vec![1., -1., 3., -1.]),
            ("logical-not", x.equal(&x)?.logical_not(), vec![2, 2], vec![0.; 4]),
            ("clamp", x.clamp(2.0..=3.0), vec![2, 2], vec![2., 2., 3., 3.]),
            ("sqrt", x.sqrt(), vec![2, 2], vec![1., 2f64.sqrt(), 3f64.sqrt(), 2.]),
            ("relu", y.relu(), vec![2], vec![10., 0.]),
            ("power", x.power(&floats(&[1], &[2.])), vec![2, 2], vec![1., 4., 9., 16.]),
            (
                "resize",
                pixels.resize_with(Resize::new(1, 1).interpolation(Interpolation::Area)),
                vec![1, 1, 1],
                vec![128.],
            ),
            (
                "nearest",
                pixels.resize_with(Resize::new(2, 1).interpolation(Interpolation::Nearest(Rounding::Ceil))),
                vec![2, 1, 1],
                vec![255., 0.],
            ),
        ];
        Ok(cases)
    };
    host.run(|| {
        for (name, result, shape, wanted) in check().unwrap() {
            let result = result.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((result.shape(), result.device()), (shape, "cpu".to_owned()), "{name}");
            let found = result.cast(DType::F64).unwrap().to_vec::<f64>().unwrap();
            let near = found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6);
            assert!(near && found.len() == wanted.len(), "{name}: {found:?}, not {wanted:?}");
        }
    });
}

#[test]
fn images_are_decoded() {
    let page = include_bytes!("../../../examples/04-ocr/page.png");
    TestHost::new().run(|| {
        let image = Tensor::decode_image(page).unwrap();
        // A PNG has its width and height, big-endian, from byte 16 on.
        let length = |at: usize| u32::from_be_bytes(page[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((image.dtype(), image.shape()), (DType::U8, vec![length(20), length(16), 3]));
        let white = image.to_bytes().unwrap().iter().filter(|byte| **byte == 255).count();
        assert!(white * 2 > image.byte_length() as usize, "a page is mostly white");
        assert_eq!(kind(Tensor::decode_image(b"no image")), "invalid-argument");
    });
}

#[test]
fn mistakes_are_the_errors_of_the_contract() {
    TestHost::new().run(|| {
        let x = floats(&[2], &[1., 2.]);
        assert_eq!(kind(Tensor::from_slice(&[3], &[1f32])), "invalid-argument");
        assert_eq!(kind(Tensor::from_slice(&[1; 9], &[1f32])), "too-large");
        assert_eq!(kind(x.softmax(1)), "invalid-argument");
        assert_eq!(kind(x.to_vec::<i32>()), "invalid-argument");
        assert_eq!(kind(x.to_bytes_range(5, u64::MAX)), "invalid-argument");
        assert_eq!(kind(Model::open("none").map(drop)), "not-found");
    });
}

#[test]
#[should_panic(expected = "hearth-guest-testing")]
fn without_a_host_a_call_says_what_is_missing() {
    drop(Tensor::from_slice(&[1], &[1f32]));
}

#[test]
fn text_goes_in_and_out() {
    TestHost::new().run(|| {
        let text = Tensor::text(&[2], &["one", "größer"]).unwrap();
        assert_eq!((text.dtype(), text.byte_length()), (DType::Text, 11));
        assert_eq!(text.to_text().unwrap(), ["one", "größer"]);
        assert_eq!(kind(text.to_bytes()), "unsupported");
        assert_eq!(kind(Tensor::text(&[3], &["one"])), "invalid-argument");
        assert_eq!(kind(floats(&[1], &[1.]).to_text()), "invalid-argument");
    });
}

#[test]
fn typed_tensors_and_arrays_keep_their_elements() {
    TestHost::new().run(|| {
        let typed = Typed::from_slice(&[2, 2], &[1i64, 2, 3, 4]).unwrap();
        assert_eq!((typed.shape(), typed.to_vec().unwrap()), (vec![2, 2], vec![1, 2, 3, 4]));
        assert_eq!(kind(Typed::<f32>::try_from(typed.into_inner()).map(drop)), "invalid-argument");
        let array = ndarray::array![[1f32, 2., 3.], [4., 5., 6.]];
        let turned = Tensor::from_array(&array.t()).unwrap();
        assert_eq!(turned.to_vec::<f32>().unwrap(), [1., 4., 2., 5., 3., 6.]);
        assert_eq!(turned.to_array::<f32>().unwrap(), array.t().into_dyn());
        assert_eq!(kind(turned.to_array::<f64>()), "invalid-argument");
    });
}

fn doubling() -> TestModel {
    let model = TestModel::new("doubling").input("x", DType::F32, "n").input("y", DType::F32, "n");
    let model = model.output("sum", DType::F32, "n").output("twice", DType::F32, "n").asset("notes/a.txt", "note");
    model.runs(|inputs| {
        let (x, y) = (inputs.get("x")?, inputs.get("y")?);
        Ok(vec![x.add(y)?, x.add(x)?])
    })
}

#[test]
fn models_run_now_or_later() {
    TestHost::new().model(doubling()).run(|| {
        let model = Model::open("doubling@3").unwrap();
        assert_eq!(model.signature().outputs[1].name, "twice");
        assert_eq!(model.asset("notes/a.txt").unwrap(), b"note");
        assert!(model.asset("b").unwrap_err().message().contains("notes/a.txt"));
        let (x, y) = (floats(&[2], &[1., 2.]), floats(&[2], &[10., 20.]));
        let mut outputs = model.infer([("y", &y), ("x", &x)]).unwrap();
        assert_eq!(outputs.take("twice").unwrap().to_vec::<f32>().unwrap(), [2., 4.]);
        assert_eq!(outputs.take_first().unwrap().to_vec::<f32>().unwrap(), [11., 22.]);
        let pending = model.submit([("x", &x), ("y", &x)]).unwrap();
        assert!(pending.ready());
        pending.cancel();
        assert_eq!(pending.wait().unwrap().names().collect::<Vec<_>>(), ["sum", "twice"]);
        assert_eq!(kind(pending.wait()), "conflict");
        let short = floats(&[1], &[1.]);
        let error = model.infer([("x", &x), ("y", &short)]).err().unwrap();
        assert!(error.kind() == "invalid-argument" && error.message().contains("'y': dimension 0"), "{error}");
    });
}

#[test]
fn the_context_is_what_was_granted() {
    let host = TestHost::new().config("k", "v").secret("s", "hidden").secret_without_value("later");
    host.run(|| {
        assert_eq!((context::config("k").as_deref(), context::config("other")), (Some("v"), None));
        assert_eq!(context::secret("s").unwrap().as_deref(), Some("hidden"));
        assert_eq!(context::secret("later").unwrap(), None);
        assert_eq!(kind(context::secret("other")), "permission-denied");
        assert!(context::remaining().as_secs() > 0);
        hearth_guest::warn!("{} left", 3);
        context::log(LogLevel::Info, "line", &[("key", "value")]);
    });
    let log = host.log();
    assert_eq!((log[0].level, log[0].message.as_str()), (LogLevel::Warn, "3 left"));
    assert_eq!(log[1].fields, [("key".to_owned(), "value".to_owned())]);
}

#[pipeline(models = ["doubling"])]
mod sums {
    use super::*;

    pub(super) fn preprocess(request: Request) -> Result<Outcome> {
        let Some(number) = request.parameter_as::<f32>("number")? else {
            return Ok(Response::new(204).into());
        };
        let number = Tensor::from_slice(&[1], &[number])?;
        let x = number.add(&number)?;
        let y = number.reshape(&[-1])?;
        Ok(Call::new("doubling").input("x", x).input("y", y).keep(number).state_json(&WORD.get()?)?.into())
    }

    pub(super) fn postprocess(mut outputs: Outputs, kept: Kept) -> Result<Response> {
        let sum = outputs.take("sum")?.subtract(&kept.tensors[0])?.to_vec::<f32>()?;
        Ok(Response::text(format!("{} {sum:?}", kept.state_json::<&str>()?)))
    }
}

static WORD: Prepared<String> = Prepared::new();

#[init]
fn prepare() -> Result<()> {
    for refused in [Tensor::from_slice(&[1], &[1f32]).map(drop), context::secret("s").map(drop)] {
        assert_eq!(kind(refused), "permission-denied");
    }
    let word = context::config("word").ok_or_else(|| Error::invalid_argument("the key `word` is missing"))?;
    hearth_guest::info!("{} bytes of notes", Model::open("doubling")?.asset("notes/a.txt")?.len());
    WORD.set(word)
}

#[test]
fn a_pipeline_runs_its_model_between_its_halves() {
    let host = TestHost::new().model(doubling()).config("word", "is").secret("s", "hidden");
    let send = |target| host.pipeline(sums::preprocess, sums::postprocess, Request::new("GET", target));
    assert_eq!(kind(send("/?number=2")), "internal");
    host.init(prepare).unwrap();
    assert_eq!(send("/?number=2").unwrap().text(), "is [4.0]");
    assert_eq!(send("/").unwrap().status, 204);
    assert_eq!(kind(send("/?number=two")), "invalid-argument");
    assert_eq!(host.log()[0].message, "4 bytes of notes");
    assert_eq!(kind(TestHost::new().init(prepare)), "invalid-argument");
}
