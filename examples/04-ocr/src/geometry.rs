//! Points, convex hulls and rectangles that may be tilted. It never reads pixels.

/// x to the right, y downwards.
pub type Point = [f32; 2];

/// A rectangle of any tilt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rectangle {
    /// Its middle.
    pub centre: Point,
    /// The length of the sides that run more or less from left to right.
    pub along: f32,
    /// The length of the other sides.
    pub across: f32,
    /// How far the first sides are turned from the x axis towards the y axis (clockwise on a screen), in radians, from -π/4
    /// to π/4.
    pub angle: f32,
}

impl Rectangle {
    /// Top left, top right, bottom right, bottom left.
    pub fn corners(&self) -> [Point; 4] {
        let (sin, cos) = self.angle.sin_cos();
        let (u, v) = (self.along / 2.0, self.across / 2.0);
        [(-u, -v), (u, -v), (u, v), (-u, v)]
            .map(|(x, y)| [self.centre[0] + x * cos - y * sin, self.centre[1] + x * sin + y * cos])
    }

    /// The same with each side moved outwards by a distance.
    pub fn grown(&self, distance: f32) -> Rectangle {
        Rectangle { along: self.along + 2.0 * distance, across: self.across + 2.0 * distance, ..*self }
    }

    /// The area.
    pub fn area(&self) -> f32 {
        self.along * self.across
    }

    /// The length of the shorter sides.
    pub fn short(&self) -> f32 {
        self.along.min(self.across)
    }
}

/// The convex hull of points that are sorted by y, then by x; clockwise on a screen, without points on its edges. Of points on
/// one line it has the first and the last.
pub fn hull(points: &[[i32; 2]]) -> Vec<[i32; 2]> {
    let mut outline: Vec<[i32; 2]> = Vec::new();
    let mut chain = |points: &mut dyn Iterator<Item = &[i32; 2]>| {
        let start = outline.len();
        for point in points {
            while outline.len() >= start + 2
                && turn(outline[outline.len() - 2], outline[outline.len() - 1], *point) <= 0
            {
                outline.pop();
            }
            outline.push(*point);
        }
        outline.pop();
    };
    if points.len() < 2 {
        return points.to_vec();
    }
    chain(&mut points.iter());
    chain(&mut points.iter().rev());
    outline
}

/// Above 0 where a → b → c turns from the x axis towards the y axis.
fn turn(a: [i32; 2], b: [i32; 2], c: [i32; 2]) -> i64 {
    let [ax, ay] = a.map(i64::from);
    let [bx, by] = b.map(i64::from);
    let [cx, cy] = c.map(i64::from);
    (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
}

/// The smallest rectangle of one tilt around points, of which there is at least one.
pub fn enclosing(points: &[[i32; 2]], angle: f32) -> Rectangle {
    let (sin, cos) = angle.sin_cos();
    let (mut least, mut most) = ([f32::MAX; 2], [f32::MIN; 2]);
    for point in points {
        let [x, y] = point.map(|value| value as f32);
        for (axis, value) in [x * cos + y * sin, y * cos - x * sin].into_iter().enumerate() {
            least[axis] = least[axis].min(value);
            most[axis] = most[axis].max(value);
        }
    }
    let (u, v) = ((least[0] + most[0]) / 2.0, (least[1] + most[1]) / 2.0);
    let centre = [u * cos - v * sin, u * sin + v * cos];
    Rectangle { centre, along: most[0] - least[0], across: most[1] - least[1], angle }
}

/// The rectangle of least area around a convex hull: one side of it is on an edge of the hull.
pub fn smallest(hull: &[[i32; 2]]) -> Rectangle {
    let upright = enclosing(hull, 0.0);
    hull.iter()
        .zip(hull.iter().cycle().skip(1))
        .map(|([ax, ay], [bx, by])| enclosing(hull, quarter(((by - ay) as f32).atan2((bx - ax) as f32))))
        .fold(upright, |best, next| if next.area() < best.area() { next } else { best })
}

/// The same direction less quarter turns: from -π/4 to π/4.
fn quarter(angle: f32) -> f32 {
    use std::f32::consts::FRAC_PI_2;
    angle - (angle / FRAC_PI_2).round() * FRAC_PI_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hull_has_only_its_corners() {
        let square: Vec<[i32; 2]> = (0..5).flat_map(|y| (0..5).map(move |x| [x, y])).collect();
        assert_eq!(hull(&square), [[0, 0], [4, 0], [4, 4], [0, 4]]);
        assert_eq!(hull(&[[3, 1], [3, 2], [3, 9]]), [[3, 1], [3, 9]]);
        assert_eq!(hull(&[[3, 1]]), [[3, 1]]);
        assert_eq!(hull(&[]), [[0; 2]; 0]);
    }

    #[test]
    fn the_smallest_rectangle_of_a_tilted_one_is_itself() {
        let tilted = Rectangle { centre: [500.0, 400.0], along: 600.0, across: 80.0, angle: 0.2 };
        let mut points = tilted.corners().map(|[x, y]| [x.round() as i32, y.round() as i32]);
        points.sort_by_key(|[x, y]| (*y, *x));
        let found = smallest(&hull(&points));
        let close = |a: f32, b: f32, within: f32| (a - b).abs() < within;
        assert!(close(found.angle, 0.2, 0.01), "{found:?}");
        assert!(close(found.along, 600.0, 2.0) && close(found.across, 80.0, 2.0), "{found:?}");
        assert!(close(found.centre[0], 500.0, 1.0) && close(found.centre[1], 400.0, 1.0), "{found:?}");
    }

    #[test]
    fn degenerate_hulls_have_flat_rectangles() {
        let line = smallest(&[[2, 5], [9, 5]]);
        assert_eq!((line.centre, line.along, line.across), ([5.5, 5.0], 7.0, 0.0));
        assert_eq!(smallest(&[[2, 5]]).area(), 0.0);
    }

    #[test]
    fn corners_start_at_the_top_left() {
        let upright = Rectangle { centre: [10.0, 20.0], along: 8.0, across: 4.0, angle: 0.0 };
        assert_eq!(upright.corners(), [[6.0, 18.0], [14.0, 18.0], [14.0, 22.0], [6.0, 22.0]]);
        assert_eq!(upright.grown(1.0).corners()[0], [5.0, 17.0]);
    }
}
