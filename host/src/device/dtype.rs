//! The dtypes of elements; it never touches data.

use std::fmt;

/// The type of a tensor's elements, as in `wit/tensors.wit`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::EnumCount,
)]
#[strum(serialize_all = "lowercase")]
pub enum DType {
    /// One byte, 0 or 1.
    Boolean,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    S8,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    S16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    S32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    S64,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of an IEEE 754 binary32.
    BF16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// UTF-8 strings of any length; no device holds them.
    Text,
}

impl DType {
    /// Every type, in the order of declaration.
    pub const ALL: [DType; <DType as strum::EnumCount>::COUNT] =
        *<DType as strum::VariantArray>::VARIANTS.first_chunk().unwrap();

    /// The word for this type in WIT, JSON and messages.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The type that a word names.
    pub fn from_word(word: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.as_str() == word)
    }

    /// Bytes of one element; `None` for text.
    pub const fn size_bytes(self) -> Option<u64> {
        match self {
            DType::Boolean | DType::U8 | DType::S8 => Some(1),
            DType::U16 | DType::S16 | DType::F16 | DType::BF16 => Some(2),
            DType::U32 | DType::S32 | DType::F32 => Some(4),
            DType::U64 | DType::S64 | DType::F64 => Some(8),
            DType::Text => None,
        }
    }

    /// Whether it is an integer, signed or not.
    pub const fn is_integer(self) -> bool {
        self.is_signed_integer() || matches!(self, DType::U8 | DType::U16 | DType::U32 | DType::U64)
    }

    /// Whether it is s8, s16, s32 or s64.
    pub const fn is_signed_integer(self) -> bool {
        matches!(self, DType::S8 | DType::S16 | DType::S32 | DType::S64)
    }

    /// Whether it is f16, bf16, f32 or f64.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
