//! The kernels' sources, divided into units, each compiled for one element type; it never compiles anything.

use crate::device::DType;

/// A source file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    /// Functions, arithmetic and comparisons of elements.
    Elements,
    /// Conversions and `normalize`.
    Cast,
    /// Moves of elements, independent of their meaning.
    Moves,
    /// Operators along one axis.
    Lanes,
    /// Reductions and cumulative sums.
    Sums,
    /// Sort, top-k and non-maximum suppression.
    Orders,
    /// Resize.
    Image,
    /// Products of matrices that no library supports.
    Matmul,
}

/// A family compiled for one element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Unit {
    /// The source.
    pub(super) family: Family,
    /// The element type's name in the sources: that of a dtype, or `u128`.
    pub(super) element: &'static str,
}

const PRELUDE: &str = include_str!("kernels/prelude.cu");

impl Family {
    /// Every family.
    #[cfg(test)]
    pub(super) const ALL: [Family; 8] = [
        Family::Elements,
        Family::Cast,
        Family::Moves,
        Family::Lanes,
        Family::Sums,
        Family::Orders,
        Family::Image,
        Family::Matmul,
    ];

    /// The file's name without its extension.
    pub(super) fn name(self) -> &'static str {
        match self {
            Family::Elements => "elements",
            Family::Cast => "cast",
            Family::Moves => "moves",
            Family::Lanes => "lanes",
            Family::Sums => "sums",
            Family::Orders => "orders",
            Family::Image => "image",
            Family::Matmul => "matmul",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Family::Elements => include_str!("kernels/elements.cu"),
            Family::Cast => include_str!("kernels/cast.cu"),
            Family::Moves => include_str!("kernels/moves.cu"),
            Family::Lanes => include_str!("kernels/lanes.cu"),
            Family::Sums => include_str!("kernels/sums.cu"),
            Family::Orders => include_str!("kernels/orders.cu"),
            Family::Image => include_str!("kernels/image.cu"),
            Family::Matmul => include_str!("kernels/matmul.cu"),
        }
    }

    /// The element types for which it is compiled.
    #[cfg(test)]
    pub(super) fn elements(self) -> Vec<&'static str> {
        let dtypes = || DType::ALL.into_iter().filter(|dtype| *dtype != DType::Text);
        let words = |wanted: fn(DType) -> bool| dtypes().filter(|dtype| wanted(*dtype)).map(DType::as_str).collect();
        match self {
            Family::Elements | Family::Cast | Family::Lanes | Family::Sums | Family::Orders => words(|_| true),
            Family::Moves => vec!["u8", "u16", "u32", "u64", "u128"],
            Family::Image => words(|dtype| dtype == DType::U8 || dtype.is_float()),
            Family::Matmul => words(|dtype| dtype != DType::Boolean),
        }
    }
}

impl Unit {
    /// A family for a dtype.
    pub(super) fn of(family: Family, dtype: DType) -> Unit {
        Unit { family, element: dtype.as_str() }
    }

    /// The family of moves for elements of a width of 1, 2, 4, 8 or 16 bytes.
    pub(super) fn moves(width: u64) -> Unit {
        let element = match width {
            1 => "u8",
            2 => "u16",
            4 => "u32",
            8 => "u64",
            _ => "u128",
        };
        Unit { family: Family::Moves, element }
    }

    /// A name for messages and files.
    pub(super) fn name(self) -> String {
        format!("{}-{}", self.family.name(), self.element)
    }

    /// The whole source.
    pub(super) fn source(self) -> String {
        let dtype = DType::from_word(self.element);
        let is = |wanted: fn(DType) -> bool| u8::from(dtype.is_some_and(wanted));
        format!(
            "#define ELEMENT {element}\n#define ELEMENT_{upper} 1\n#define IS_FLOAT {float}\n#define IS_SIGNED {signed}\n\
             #define IS_INTEGER {integer}\n#define IS_BOOLEAN {boolean}\n{PRELUDE}\n{text}",
            element = self.element,
            upper = self.element.to_uppercase(),
            float = is(DType::is_float),
            signed = is(DType::is_signed_integer),
            integer = is(DType::is_integer),
            boolean = is(|dtype| dtype == DType::Boolean),
            text = self.family.text(),
        )
    }
}

/// Every unit that exists.
#[cfg(test)]
pub(super) fn every() -> Vec<Unit> {
    let units = |family: Family| family.elements().into_iter().map(move |element| Unit { family, element });
    Family::ALL.into_iter().flat_map(units).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_its_prelude_and_its_family() {
        let source = Unit::of(Family::Sums, DType::BF16).source();
        assert!(source.starts_with("#define ELEMENT bf16\n#define ELEMENT_BF16 1\n#define IS_FLOAT 1\n"));
        assert!(source.contains("struct Reduced") && source.contains("struct Traits"));
        assert_eq!(Unit::moves(16).name(), "moves-u128");
        assert_eq!(every().len(), 13 * 5 + 5 + 5 + 12);
    }
}
