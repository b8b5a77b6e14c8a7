//! Turns the findings on each engine into verdicts; it never starts or reads anything.

use super::compare::{Output, Tolerance, compare};
use super::inputs::{Trial, Values};
use crate::device::DType;
use crate::error::{Error, Kind, Result};
use crate::model::engines::{Checked, EngineChoice, EngineName, Verdict, alike};
use crate::model::signature::Signature;

/// Characters of each engine's reason in one message.
const REASON_CHARS: usize = 400;

/// Runs that must have been compared for an engine that fails on more runs than were compared.
const LEAST_COMPARED: u64 = 2;

/// The findings on one engine.
pub(super) struct Finding {
    pub(super) engine: EngineName,
    pub(super) version: String,
    /// What `model.toml` says, or what is wrong with the package.
    pub(super) setting: Result<Option<EngineChoice>, String>,
    /// None if the engine did not finish.
    pub(super) signature: Option<Signature>,
    /// Why it must not run the model unless samples or the reference confirm its outputs.
    pub(super) doubt: Option<String>,
    /// The runs on generated inputs, with the inputs' shapes.
    pub(super) trials: Vec<(Trial, String, Ran)>,
    /// Samples that succeeded.
    pub(super) samples: u64,
    /// The fault of the first sample that did not succeed.
    pub(super) fault: Option<String>,
    /// Why the engine did not finish.
    pub(super) refusal: Option<(Kind, String)>,
}

/// How a run ended.
pub(super) enum Ran {
    Done(Vec<Array>),
    Unsent,
    Failed(String),
}

/// An output of a run: little-endian elements, or the JSON list of its strings.
pub(super) struct Array {
    pub(super) dtype: DType,
    pub(super) dims: Vec<u64>,
    pub(super) bytes: Vec<u8>,
}

impl Finding {
    pub(super) fn new(engine: EngineName, version: &str) -> Finding {
        Finding {
            engine,
            version: version.to_owned(),
            setting: Ok(None),
            signature: None,
            doubt: None,
            trials: Vec::new(),
            samples: 0,
            fault: None,
            refusal: None,
        }
    }

    /// Why the engine is refused, judged by its own findings alone.
    fn refused(&self) -> Option<(Kind, String)> {
        if let Some(refusal) = &self.refusal {
            return Some(refusal.clone());
        }
        if let Some(fault) = &self.fault {
            return Some((Kind::InvalidArgument, fault.clone()));
        }
        if self.runs() > 0 || self.samples > 0 {
            return None;
        }
        let mut failures = self.trials.iter().filter_map(|(_, shapes, ran)| match ran {
            Ran::Failed(message) => Some((shapes, message)),
            Ran::Done(_) | Ran::Unsent => None,
        });
        let last = failures.next_back().map(|(shapes, message)| format!(", the last of shapes {shapes}: {message}"));
        let message = format!(
            "the model ran on none of the {} generated inputs{}; put inputs that it takes into samples/ (docs/engines.md)",
            self.trials.len(),
            last.unwrap_or_default()
        );
        Some((Kind::InvalidArgument, message))
    }

    /// Runs that succeeded, not counting those on empty inputs, which show little.
    fn runs(&self) -> u64 {
        let succeeded =
            |(trial, _, ran): &&(Trial, String, Ran)| trial.values != Values::Empty && !matches!(ran, Ran::Failed(_));
        self.trials.iter().filter(succeeded).count() as u64
    }
}

/// The signature and the verdicts. `absent` says that there is no onnxruntime.
///
/// Errors: the refusals of all engines, where `choice` allows none that passed.
pub(super) fn decide(findings: Vec<Finding>, choice: EngineChoice, absent: bool) -> Result<(Signature, Checked)> {
    let mut refusals: Vec<Option<(Kind, String)>> = findings.iter().map(Finding::refused).collect();
    let passed = |name: EngineName, refusals: &[Option<(Kind, String)>]| {
        let mut found = findings.iter().zip(refusals);
        found.find(|(finding, refusal)| finding.engine == name && refusal.is_none()).map(|(finding, _)| finding)
    };
    let mut compared = Compared::default();
    if let (Some(reference), Some(other)) =
        (passed(EngineName::Onnxruntime, &refusals), passed(EngineName::Rten, &refusals))
    {
        compared = compare_all(other, reference);
        if let Some(fault) = &compared.fault
            && let Some(place) = findings.iter().position(|finding| finding.engine == EngineName::Rten)
        {
            refusals[place] = Some((Kind::Unsupported, fault.clone()));
        }
    }
    for (finding, refusal) in findings.iter().zip(&mut refusals).filter(|(_, refusal)| refusal.is_none()) {
        if let Some(doubt) = &finding.doubt
            && finding.samples == 0
            && compared.runs == 0
        {
            let message =
                format!("{doubt}, and nothing confirms its outputs; put samples into samples/ (docs/engines.md)");
            *refusal = Some((Kind::Unsupported, message));
        }
    }
    let verdict = |(finding, refusal): (&Finding, &Option<(Kind, String)>)| {
        let of_rten = finding.engine == EngineName::Rten;
        Verdict {
            engine: finding.engine,
            version: finding.version.clone(),
            passed: refusal.is_none(),
            reason: refusal.as_ref().map(|(_, reason)| reason.clone()),
            runs: finding.runs(),
            samples: finding.samples,
            compared: if of_rten { compared.runs } else { 0 },
            difference: (of_rten && compared.runs > 0).then_some(compared.largest),
            fails: if of_rten { compared.failures } else { 0 },
            failure: compared.failure.clone().filter(|_| of_rten && refusal.is_none()),
        }
    };
    let checked = Checked { engine: choice, engines: findings.iter().zip(&refusals).map(verdict).collect() };
    if !EngineName::ALL.into_iter().any(|name| checked.allows(name)) {
        return Err(refusal(&findings, &refusals, choice, absent));
    }
    let signature = EngineName::ALL.into_iter().find_map(|name| passed(name, &refusals)?.signature.clone());
    let signature = signature.ok_or_else(|| Error::host("checking a model", "no engine gave a signature"))?;
    Ok((signature, checked))
}

fn refusal(findings: &[Finding], refusals: &[Option<(Kind, String)>], choice: EngineChoice, absent: bool) -> Error {
    let told = findings.iter().zip(refusals).filter(|(finding, _)| choice.allows(finding.engine));
    let told: Vec<_> = told.filter_map(|(finding, refusal)| Some((finding.engine, refusal.as_ref()?))).collect();
    let kind = told.first().map_or(Kind::Internal, |(_, (kind, _))| *kind);
    let reasons = told.iter().map(|(engine, (_, reason))| {
        let reason: String = reason.chars().take(REASON_CHARS).collect();
        format!("{engine}: {reason}")
    });
    let mut message = format!("no engine runs this model. {}", reasons.collect::<Vec<_>>().join(". "));
    if absent && choice == EngineChoice::Auto {
        message.push_str(
            ". onnxruntime, which runs more models, is not on the server's machine (`cargo xtask setup`, or \
             HEARTH_ORT_LIB)",
        );
    }
    Error::new(kind, message)
}

#[derive(Default)]
struct Compared {
    runs: u64,
    largest: f64,
    fault: Option<String>,
    /// Runs that failed where the reference's did not, and the first one's message.
    failures: u64,
    failure: Option<String>,
}

/// Compares every run of an engine with the same run of the reference.
fn compare_all(other: &Finding, reference: &Finding) -> Compared {
    let mut compared = Compared::default();
    let (Some(signature), Some(own)) = (&reference.signature, &other.signature) else { return compared };
    if !alike(own, signature) {
        compared.fault = Some(format!("it reads other inputs or outputs than {}", reference.engine));
        return compared;
    }
    for (trial, shapes, expected) in &reference.trials {
        let Some((_, _, found)) = other.trials.iter().find(|(tried, ..)| tried == trial) else { continue };
        let at = format!("on inputs of shapes {shapes}");
        let (found, expected) = match (found, expected) {
            (_, Ran::Failed(_)) | (Ran::Unsent, _) | (_, Ran::Unsent) => continue,
            // A failure is no wrong answer: a request with such inputs gets an error. Large integers and empty inputs are rare.
            (Ran::Failed(_), Ran::Done(_)) if matches!(trial.values, Values::Wide | Values::Empty) => continue,
            (Ran::Failed(message), Ran::Done(_)) => {
                compared.failures += 1;
                compared
                    .failure
                    .get_or_insert_with(|| format!("it fails {at}, where {} does not: {message}", reference.engine));
                continue;
            }
            (Ran::Done(found), Ran::Done(expected)) => (found, expected),
        };
        compared.runs += u64::from(trial.values != Values::Empty);
        for ((found, expected), declared) in found.iter().zip(expected).zip(&signature.outputs) {
            let output = |array: &Array| -> (DType, Vec<u64>) { (array.dtype, array.dims.clone()) };
            let ((dtype, dims), (reference_dtype, reference_dims)) = (output(found), output(expected));
            let difference = compare(
                Output { dtype, dims: &dims, bytes: &found.bytes },
                Output { dtype: reference_dtype, dims: &reference_dims, bytes: &expected.bytes },
                Tolerance::of(reference_dtype),
            );
            compared.largest = compared.largest.max(difference.largest);
            if let (Some(fault), None) = (difference.fault, &compared.fault) {
                let name = &declared.name;
                compared.fault = Some(format!("its output '{name}' differs from {}'s {at}: {fault}", reference.engine));
            }
        }
        if found.len() != expected.len() {
            compared.fault = Some(format!("it gives {} outputs and not {}", found.len(), expected.len()));
        }
    }
    // If it fails so often that hardly any run can be compared, its outputs are unknown.
    if compared.failures > compared.runs && compared.runs < LEAST_COMPARED && other.samples == 0 {
        compared.fault = compared.fault.or_else(|| compared.failure.clone());
    }
    if compared.runs == 0 && compared.fault.is_none() && reference.runs() > 0 && other.samples == 0 {
        let reference = reference.engine;
        compared.fault = Some(format!("none of its runs could be compared with one of {reference}; add samples/"));
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Trial = Trial { size: 0, values: Values::Small };
    const WIDE: Trial = Trial { size: 0, values: Values::Wide };
    const EMPTY: Trial = Trial { size: 1, values: Values::Empty };

    fn done(value: f32) -> Ran {
        Ran::Done(vec![Array { dtype: DType::F32, dims: vec![1], bytes: value.to_le_bytes().to_vec() }])
    }

    fn failed() -> Ran {
        Ran::Failed("no such shape".to_owned())
    }

    fn found(engine: EngineName, trials: Vec<(Trial, Ran)>) -> Finding {
        let output: Signature = serde_json::from_value(serde_json::json!({
            "inputs": [], "outputs": [{"name": "y", "dtype": "f32", "shape": [1], "batch_axis": null}],
        }))
        .unwrap();
        let trials = trials.into_iter().map(|(trial, ran)| (trial, "[1]".to_owned(), ran)).collect();
        Finding { signature: Some(output), trials, ..Finding::new(engine, "1") }
    }

    fn both(onnxruntime: Vec<(Trial, Ran)>, rten: Vec<(Trial, Ran)>) -> Vec<Finding> {
        vec![found(EngineName::Onnxruntime, onnxruntime), found(EngineName::Rten, rten)]
    }

    fn passed(findings: Vec<Finding>) -> (Vec<bool>, Vec<String>) {
        let checked = decide(findings, EngineChoice::Auto, false).unwrap().1;
        let reasons = checked.engines.iter().filter_map(|verdict| verdict.reason.clone()).collect();
        (checked.engines.iter().map(|verdict| verdict.passed).collect(), reasons)
    }

    #[test]
    fn the_reference_decides_where_engines_differ() {
        assert_eq!(passed(both(vec![(SMALL, done(1.0))], vec![(SMALL, done(1.0))])).0, [true, true]);
        let (kept, reasons) = passed(both(vec![(SMALL, done(1.0))], vec![(SMALL, done(2.0))]));
        assert_eq!(kept, [true, false]);
        assert_eq!(
            reasons,
            ["its output 'y' differs from onnxruntime's on inputs of shapes [1]: element 0 is 2e0 and not 1e0"]
        );
        let (kept, reasons) = passed(both(vec![(SMALL, done(1.0))], vec![(SMALL, failed()), (WIDE, done(1.0))]));
        assert_eq!((kept, reasons[0].contains("no such shape")), (vec![true, false], true));
        // Failing on the smaller part of the runs is reported and no reason to refuse it.
        let other = Trial { size: 1, ..SMALL };
        let findings = both(vec![(SMALL, done(1.0)), (other, done(1.0))], vec![(SMALL, done(1.0)), (other, failed())]);
        let rten = decide(findings, EngineChoice::Auto, false).unwrap().1.engines.remove(1);
        assert_eq!((rten.passed, rten.compared, rten.fails), (true, 1, 1));
        assert!(rten.failure.is_some_and(|failure| failure.contains("no such shape")));
        let size = |size| Trial { size, ..SMALL };
        for (taken, passes) in [(1, false), (2, true), (3, true)] {
            let onnxruntime = (0..5).map(|index| (size(index), done(1.0))).collect();
            let rten = (0..5).map(|index| (size(index), if index < taken { done(1.0) } else { failed() })).collect();
            assert_eq!(passed(both(onnxruntime, rten)).0, [true, passes], "{taken}");
        }
        // On empty inputs it may fail, but not give other outputs.
        for (of_nothing, passes) in [(failed(), true), (done(1.0), true), (done(2.0), false)] {
            let onnxruntime = vec![(SMALL, done(1.0)), (EMPTY, done(1.0))];
            assert_eq!(passed(both(onnxruntime, vec![(SMALL, done(1.0)), (EMPTY, of_nothing)])).0, [true, passes]);
        }
        let of_nothing = both(vec![(EMPTY, done(1.0))], vec![(EMPTY, done(1.0))]);
        assert!(decide(of_nothing, EngineChoice::Auto, false).is_err());
        // Runs that onnxruntime refuses are not compared, and rten may refuse large integers.
        let onnxruntime = vec![(SMALL, done(1.0)), (Trial { size: 1, ..SMALL }, failed()), (WIDE, done(1.0))];
        let rten = vec![(SMALL, done(1.0)), (Trial { size: 1, ..SMALL }, done(7.0)), (WIDE, failed())];
        assert_eq!(passed(both(onnxruntime, rten)).0, [true, true]);
        // If the two engines ran on different inputs, nothing confirms rten's outputs.
        let (kept, reasons) = passed(both(vec![(SMALL, done(1.0))], vec![(WIDE, done(1.0))]));
        assert_eq!((kept, reasons[0].contains("none of its runs could be compared")), (vec![true, false], true));
    }

    #[test]
    fn samples_outrank_the_reference() {
        let mut findings = both(vec![(SMALL, done(1.0))], vec![(SMALL, done(2.0))]);
        findings[0].fault = Some("sample 'a': wrong".to_owned());
        findings[1].samples = 1;
        let (kept, reasons) = passed(findings);
        assert_eq!((kept, reasons), (vec![false, true], vec!["sample 'a': wrong".to_owned()]));
        // One sample that runs makes up for generated inputs that do not.
        let mut findings = both(vec![(SMALL, failed())], vec![(SMALL, failed())]);
        findings[0].samples = 1;
        let (kept, reasons) = passed(findings);
        assert_eq!((kept, reasons[0].contains("none of the 1 generated inputs")), (vec![true, false], true));
    }

    #[test]
    fn a_doubt_is_overcome_by_samples_and_by_the_reference() {
        let doubted = |samples, findings: Vec<Finding>| {
            let mut findings = findings;
            let rten = findings.last_mut().unwrap();
            (rten.doubt, rten.samples) = (Some("rten rounds".to_owned()), samples);
            decide(findings, EngineChoice::Auto, false)
        };
        let alone = || vec![found(EngineName::Rten, vec![(SMALL, done(1.0))])];
        let error = doubted(0, alone()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains("rten rounds") && error.message().contains("samples/"), "{error}");
        assert!(doubted(1, alone()).is_ok());
        let both = both(vec![(SMALL, done(1.0))], vec![(SMALL, done(1.0))]);
        assert!(doubted(0, both).unwrap().1.allows(EngineName::Rten));
        assert!(decide(alone(), EngineChoice::Auto, false).is_ok());
    }

    #[test]
    fn where_no_engine_is_left_all_reasons_are_told() {
        let mut findings = both(vec![], vec![]);
        findings[0].refusal = Some((Kind::Unsupported, "no such operator".to_owned()));
        let error = decide(findings, EngineChoice::Auto, false).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        for part in ["onnxruntime: no such operator", "rten: the model ran on none", "samples/"] {
            assert!(error.message().contains(part), "{error}");
        }
        let only = |choice| decide(both(vec![(SMALL, done(1.0))], vec![(SMALL, done(2.0))]), choice, false);
        assert!(only(EngineChoice::Onnxruntime).is_ok());
        let error = only(EngineChoice::Rten).unwrap_err();
        assert!(error.message().contains("rten: its output 'y' differs") && !error.message().contains("onnxruntime:"));
        let absent = decide(vec![found(EngineName::Rten, vec![])], EngineChoice::Auto, true).unwrap_err();
        assert!(absent.message().contains("HEARTH_ORT_LIB"), "{absent}");
    }
}
