//! Cuts a line out of the page: a window if the line is level, else samples along it. It never resizes a line, which the device
//! does.

use crate::geometry::Point;

/// A line is level where its box's sides differ by less than this from a window's, in pixels.
const LEVEL: f32 = 1.0;

/// Where a line is in the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// A window of the image.
    Window { top: usize, left: usize, height: usize, width: usize },
    /// A tilted box of about `height` by `width` pixels.
    Tilted { corners: [Point; 4], height: usize, width: usize },
}

impl Cut {
    /// For a box's corners (from the top left, clockwise) in an image of a height and width of at least 1; at least one pixel.
    pub fn new(corners: [Point; 4], height: usize, width: usize) -> Cut {
        let [a, b, c, d] = corners;
        let apart = |axis: usize, one: Point, other: Point| (one[axis] - other[axis]).abs();
        let level = [apart(1, a, b), apart(1, c, d), apart(0, a, d), apart(0, b, c)].iter().all(|apart| *apart < LEVEL);
        if level {
            let span = |from: f32, to: f32, most: usize| {
                let start = (from.round().max(0.0) as usize).min(most - 1);
                (start, (to.round().max(0.0) as usize).clamp(start + 1, most) - start)
            };
            let (left, width) = span((a[0] + d[0]) / 2.0, (b[0] + c[0]) / 2.0, width);
            let (top, height) = span((a[1] + b[1]) / 2.0, (c[1] + d[1]) / 2.0, height);
            return Cut::Window { top, left, height, width };
        }
        let length = |from: Point, to: Point| (to[0] - from[0]).hypot(to[1] - from[1]).round().max(1.0) as usize;
        Cut::Tilted { corners, height: length(a, d), width: length(a, b) }
    }
}

/// Some rows of an RGB image.
pub struct Rows {
    /// Their pixels, 3 bytes each, row by row.
    pub pixels: Vec<u8>,
    /// Pixels in a row, at least 1.
    pub width: usize,
    /// The index of the first row in the image.
    pub first: usize,
}

impl Rows {
    /// The first of the rows that a tilted box needs, and one past the last, in an image of a height.
    pub fn needed(corners: &[Point; 4], height: usize) -> (usize, usize) {
        let ys = corners.map(|corner| corner[1]);
        let least = ys.iter().copied().fold(f32::MAX, f32::min) - 2.0;
        let most = ys.iter().copied().fold(f32::MIN, f32::max) + 3.0;
        let first = (least.max(0.0) as usize).min(height.saturating_sub(1));
        (first, (most.max(0.0) as usize).clamp(first + 1, height.max(first + 1)))
    }

    /// The pixels of a tilted box, bilinear, `height` by `width` of 3 bytes. Beyond the rows' edges the nearest pixel counts.
    pub fn sample(&self, corners: &[Point; 4], height: usize, width: usize) -> Vec<u8> {
        let [origin, right, _, down] = *corners;
        let fixed = |value: f32| (f64::from(value) * ONE as f64) as i64;
        let step = |to: Point, count: usize| [0, 1].map(|axis| (to[axis] - origin[axis]) / count as f32);
        let (along, across) = (step(right, width), step(down, height));
        let mut samples = Vec::with_capacity(height * width * 3);
        for row in 0..height {
            // A sample is taken at its pixel's centre; source pixels' centres are at halves too.
            let start = [0, 1].map(|axis| origin[axis] + (row as f32 + 0.5) * across[axis] + 0.5 * along[axis] - 0.5);
            let [mut x, mut y] = [fixed(start[0]), fixed(start[1] - self.first as f32)];
            let (dx, dy) = (fixed(along[0]), fixed(along[1]));
            for _ in 0..width {
                samples.extend_from_slice(&self.at(x, y));
                x += dx;
                y += dy;
            }
        }
        samples
    }

    /// The colour at a place in 65536ths of a pixel.
    fn at(&self, x: i64, y: i64) -> [u8; 3] {
        let rows = self.pixels.len() / 3 / self.width;
        let (x0, x1, fx) = neighbours(x, self.width);
        let (y0, y1, fy) = neighbours(y, rows);
        let pixel = |x: usize, y: usize| {
            let start = (y * self.width + x) * 3;
            self.pixels.get(start..start + 3).unwrap_or(&[0; 3])
        };
        let (a, b, c, d) = (pixel(x0, y0), pixel(x1, y0), pixel(x0, y1), pixel(x1, y1));
        [0, 1, 2].map(|channel| {
            let [a, b, c, d] = [a, b, c, d].map(|pixel| u32::from(pixel[channel]));
            let (upper, lower) = (a * (256 - fx) + b * fx, c * (256 - fx) + d * fx);
            ((upper * (256 - fy) + lower * fy + (1 << 15)) >> 16) as u8
        })
    }
}

const ONE: i64 = 1 << 16;

/// The two pixels next to a place, and its distance from the first to the second, in 256ths.
fn neighbours(place: i64, count: usize) -> (usize, usize, u32) {
    let last = count.saturating_sub(1) as i64;
    let whole = place >> 16;
    let part = ((place & (ONE - 1)) >> 8) as u32;
    (whole.clamp(0, last) as usize, (whole + 1).clamp(0, last) as usize, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_boxes_are_windows_within_the_image() {
        let cut = |left: f32, top: f32, right: f32, bottom: f32| {
            Cut::new([[left, top], [right, top + 0.4], [right, bottom], [left, bottom]], 100, 200)
        };
        assert_eq!(cut(10.2, 20.0, 60.4, 40.0), Cut::Window { top: 20, left: 10, height: 20, width: 50 });
        assert_eq!(cut(-5.0, -5.0, 250.0, 120.0), Cut::Window { top: 0, left: 0, height: 100, width: 200 });
        assert_eq!(cut(300.0, 50.0, 300.2, 50.1), Cut::Window { top: 50, left: 199, height: 1, width: 1 });
    }

    #[test]
    fn a_tilted_box_of_a_gradient_has_the_values_at_its_places() {
        // Red is x, green is y.
        let (width, height) = (200, 100);
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 7])).collect();
        let rows = Rows { pixels, width, first: 0 };
        let corners = [[50.0, 20.0], [146.0, 48.0], [140.0, 68.57], [44.0, 40.57]];
        let Cut::Tilted { height, width, .. } = Cut::new(corners, 100, 200) else { panic!() };
        assert_eq!((height, width), (21, 100));
        let samples = rows.sample(&corners, height, width);
        assert_eq!(samples.len(), height * width * 3);
        for (row, column) in [(0, 0), (20, 99), (10, 50)] {
            let (u, v) = ((column as f32 + 0.5) / 100.0, (row as f32 + 0.5) / 21.0);
            let pixel = &samples[(row * width + column) * 3..][..3];
            let x = 50.0 + u * 96.0 - v * 6.0 - 0.5;
            let y = 20.0 + u * 28.0 + v * 20.57 - 0.5;
            assert!(
                (f32::from(pixel[0]) - x).abs() < 0.6 && (f32::from(pixel[1]) - y).abs() < 0.6,
                "{pixel:?} {x} {y}"
            );
            assert_eq!(pixel[2], 7);
        }
    }

    #[test]
    fn places_beyond_the_rows_have_the_nearest_colour() {
        let rows = Rows { pixels: vec![9; 4 * 2 * 3], width: 4, first: 50 };
        let corners = [[-90.0, -40.0], [300.0, 10.0], [290.0, 90.0], [-100.0, 40.0]];
        assert!(rows.sample(&corners, 8, 40).iter().all(|byte| *byte == 9));
        assert_eq!(Rows::needed(&corners, 60), (0, 60));
        assert_eq!(Rows::needed(&[[0.0, 500.0]; 4], 60), (59, 60));
    }
}
