//! Computes which source samples make a target sample of `resize`, and their weights; it never depends on the device.
//!
//! Coordinates are exact fractions until the weights are made, so that ties and whole positions never depend on
//! rounding.

use super::stop::Pace;
use super::{Coordinates, Interpolation, Resize, Rounding};
use crate::error::Result;

/// One axis of a resize. Both lengths are at least 1 and fit in 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    source: u64,
    target: u64,
    filter: Filter,
    coordinates: Coordinates,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Filter {
    Nearest(Rounding),
    Linear,
    Cubic,
    Area,
    WideLinear,
    WideCubic,
}

/// For each target sample a run of source samples and their weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taps {
    /// The most samples of a run.
    pub(crate) width: usize,
    /// The first source sample of each run.
    pub(crate) starts: Vec<u32>,
    /// The samples of each run: at least 1, at most `width`. Neither the first nor the last has weight 0.
    pub(crate) counts: Vec<u32>,
    /// The weights: run i has those from `i * width` on. They sum to 1.
    pub(crate) weights: Vec<f64>,
}

impl Axis {
    /// The vertical axis of images of a height.
    pub(crate) fn rows(resize: &Resize, source_height: u64) -> Axis {
        Axis::new(resize, source_height, resize.height.into())
    }

    /// The horizontal axis of images of a width.
    pub(crate) fn columns(resize: &Resize, source_width: u64) -> Axis {
        Axis::new(resize, source_width, resize.width.into())
    }

    fn new(resize: &Resize, source: u64, target: u64) -> Axis {
        let shrinks = source > target;
        let filter = match (resize.interpolation, resize.antialias && shrinks) {
            (Interpolation::Nearest(rounding), _) => Filter::Nearest(rounding),
            (Interpolation::Bilinear, false) => Filter::Linear,
            (Interpolation::Bilinear, true) => Filter::WideLinear,
            (Interpolation::Bicubic, false) => Filter::Cubic,
            (Interpolation::Bicubic, true) => Filter::WideCubic,
            (Interpolation::Area, _) if shrinks => Filter::Area,
            (Interpolation::Area, _) => Filter::Linear,
        };
        let coordinates = match resize.interpolation {
            Interpolation::Area => Coordinates::HalfPixel,
            Interpolation::Nearest(_) | Interpolation::Bilinear | Interpolation::Bicubic => resize.coordinates,
        };
        Axis { source, target, filter, coordinates }
    }

    /// The most source samples that make one target sample.
    pub(crate) fn width(&self) -> u64 {
        let shrinking = self.source.div_ceil(self.target.max(1));
        let most = match self.filter {
            Filter::Nearest(_) => 1,
            Filter::Linear => 2,
            Filter::Cubic => 4,
            Filter::Area => shrinking + 1,
            Filter::WideLinear => 2 * shrinking + 1,
            Filter::WideCubic => 4 * shrinking + 1,
        };
        most.min(self.source)
    }

    /// Bytes of [`Taps`].
    pub(crate) fn bytes(&self) -> u64 {
        self.width().saturating_mul(8).saturating_add(8).saturating_mul(self.target)
    }

    /// The taps of each target sample.
    pub(crate) fn taps(&self, pace: &mut Pace<'_>) -> Result<Taps> {
        let (width, target) = (self.width() as usize, self.target as usize);
        let (starts, counts) = (Vec::with_capacity(target), Vec::with_capacity(target));
        let mut taps = Taps { width, starts, counts, weights: vec![0.0; target * width] };
        for index in 0..self.target {
            pace.spend(8 + width)?;
            self.fill(index, &mut taps);
        }
        Ok(taps)
    }

    fn fill(&self, index: u64, taps: &mut Taps) {
        if self.filter == Filter::Area {
            // In units of 1 / target of a source sample, all numbers are integers.
            let (low, high) = (index * self.source, (index + 1) * self.source);
            let (first, last) = (low / self.target, (high - 1) / self.target);
            let share = |sample: u64| {
                let covered = high.min((sample + 1) * self.target) - low.max(sample * self.target);
                covered as f64
            };
            return self.push(index, first as i64, last as i64, taps, |sample| share(sample as u64));
        }
        let (whole, part) = self.position(index);
        match self.filter {
            Filter::Nearest(rounding) => {
                let behind = match rounding {
                    Rounding::PreferFloor => part > 0.5,
                    Rounding::PreferCeil => part >= 0.5,
                    Rounding::Floor => false,
                    Rounding::Ceil => part > 0.0,
                };
                let sample = whole + i64::from(behind);
                self.push(index, sample, sample, taps, |_| 1.0);
            }
            Filter::Linear => self.push(index, whole, whole + 1, taps, |at| linear((at - whole) as f64 - part)),
            Filter::Cubic => self.push(index, whole - 1, whole + 2, taps, |at| cubic((at - whole) as f64 - part)),
            Filter::WideLinear | Filter::WideCubic => {
                let scale = self.source as f64 / self.target as f64;
                let (reach, filter): (f64, fn(f64) -> f64) = match self.filter {
                    Filter::WideLinear => (scale, linear),
                    _ => (2.0 * scale, cubic),
                };
                // Samples beyond the image do not count, so the ends are clamped before the weights are made.
                let most = self.source as i64 - 1;
                let first = (whole + (part - reach).floor() as i64 + 1).clamp(0, most);
                let last = (whole + (part + reach).ceil() as i64 - 1).clamp(first, most);
                let last = last.min(first + taps.width as i64 - 1);
                self.push(index, first, last, taps, |at| filter(((at - whole) as f64 - part) / scale));
            }
            Filter::Area => {}
        }
    }

    /// The source coordinate of a target sample: its floor, and what is above that.
    fn position(&self, index: u64) -> (i64, f64) {
        let [index, source, target] = [index, self.source, self.target].map(i128::from);
        let (above, below) = match self.coordinates {
            Coordinates::PytorchHalfPixel | Coordinates::AlignCorners if target == 1 => (0, 1),
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => ((2 * index + 1) * source - target, 2 * target),
            Coordinates::AlignCorners => (index * (source - 1), target - 1),
            Coordinates::Asymmetric => (index * source, target),
        };
        (above.div_euclid(below) as i64, above.rem_euclid(below) as f64 / below as f64)
    }

    /// Appends a run; samples beyond the image are those at its edge.
    fn push(&self, index: u64, first: i64, last: i64, taps: &mut Taps, weight: impl Fn(i64) -> f64) {
        let inside = |sample: i64| sample.clamp(0, self.source as i64 - 1);
        let start = inside(first);
        let row = index as usize * taps.width;
        let run = &mut taps.weights[row..row + (inside(last) - start) as usize + 1];
        for sample in first..=last {
            run[(inside(sample) - start) as usize] += weight(sample);
        }
        let leading = run.iter().take_while(|weight| **weight == 0.0).count().min(run.len() - 1);
        run.rotate_left(leading);
        let trailing = run.iter().rev().take_while(|weight| **weight == 0.0).count().min(run.len() - 1);
        let count = run.len() - trailing;
        let sum: f64 = run[..count].iter().sum();
        run[..count].iter_mut().for_each(|weight| *weight /= sum);
        taps.starts.push((start + leading as i64) as u32);
        taps.counts.push(count as u32);
    }
}

fn linear(distance: f64) -> f64 {
    (1.0 - distance.abs()).max(0.0)
}

/// Cubic convolution (Keys, 1981) with a = -0.75.
fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.75;
    let x = distance.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{ImageLayout, Stop};

    fn axis(source: u64, target: u32, interpolation: Interpolation, coordinates: Coordinates, antialias: bool) -> Axis {
        let resize =
            Resize { height: 1, width: target, layout: ImageLayout::Hwc, interpolation, coordinates, antialias };
        Axis::columns(&resize, source)
    }

    fn runs(axis: Axis) -> Vec<(u32, Vec<f64>)> {
        let taps = axis.taps(&mut Pace::new(&Stop::default())).unwrap();
        let run = |index: usize| {
            let row = index * taps.width;
            (taps.starts[index], taps.weights[row..row + taps.counts[index] as usize].to_vec())
        };
        (0..taps.starts.len()).map(run).collect()
    }

    #[test]
    fn runs_are_those_of_the_definition() {
        let half = Coordinates::HalfPixel;
        let bilinear = runs(axis(4, 2, Interpolation::Bilinear, half, false));
        assert_eq!(bilinear, [(0, vec![0.5, 0.5]), (2, vec![0.5, 0.5])]);
        for (rounding, chosen) in [
            (Rounding::PreferFloor, [0, 2]),
            (Rounding::PreferCeil, [1, 3]),
            (Rounding::Floor, [0, 2]),
            (Rounding::Ceil, [1, 3]),
        ] {
            let nearest = runs(axis(4, 2, Interpolation::Nearest(rounding), half, false));
            assert_eq!(nearest, chosen.map(|sample| (sample, vec![1.0])), "{rounding:?}");
        }
        let area = runs(axis(3, 2, Interpolation::Area, Coordinates::AlignCorners, false));
        assert_eq!(area, [(0, vec![2.0 / 3.0, 1.0 / 3.0]), (1, vec![1.0 / 3.0, 2.0 / 3.0])]);
        let corners = runs(axis(5, 3, Interpolation::Bicubic, Coordinates::AlignCorners, false));
        assert_eq!(corners, [(0, vec![1.0]), (2, vec![1.0]), (4, vec![1.0])]);
        let wide = runs(axis(4, 2, Interpolation::Bilinear, half, true));
        assert_eq!(wide[0], (0, vec![3.0 / 7.0, 3.0 / 7.0, 1.0 / 7.0]));
    }

    #[test]
    fn every_run_lies_within_the_image_and_sums_to_one() {
        let interpolations = [
            Interpolation::Nearest(Rounding::PreferFloor),
            Interpolation::Nearest(Rounding::PreferCeil),
            Interpolation::Nearest(Rounding::Floor),
            Interpolation::Nearest(Rounding::Ceil),
            Interpolation::Bilinear,
            Interpolation::Bicubic,
            Interpolation::Area,
        ];
        let coordinates =
            [Coordinates::HalfPixel, Coordinates::PytorchHalfPixel, Coordinates::AlignCorners, Coordinates::Asymmetric];
        for source in [1, 2, 3, 7, 64, 1_000] {
            for target in [1, 2, 3, 5, 64, 999] {
                for interpolation in interpolations {
                    for coordinates in coordinates {
                        for antialias in [false, true] {
                            let axis = axis(source, target, interpolation, coordinates, antialias);
                            for (start, weights) in runs(axis) {
                                assert!(u64::from(start) + weights.len() as u64 <= source, "{axis:?}");
                                let sum: f64 = weights.iter().sum();
                                assert!((sum - 1.0).abs() < 1e-12, "{axis:?}: {weights:?}");
                            }
                        }
                    }
                }
            }
        }
    }
}
