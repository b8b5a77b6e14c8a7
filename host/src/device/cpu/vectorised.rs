//! Compiles inner loops twice, for every x86-64 and for AVX2, and picks one at run time; it never changes a result:
//! both are the same Rust code, without fused multiplications.

/// Defines a function whose body is compiled twice. Write generics in square brackets, names first, bounds second:
/// `vectorised! { fn name [T] [T: Pod] (x: &[T]) { … } }`. Functions that the body calls must be inlined to profit.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident [$($generic:ident),*] [$($bound:tt)*]
        ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name<$($bound)*>($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable<$($bound)*>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx,avx2,bmi1,bmi2")]
                fn avx2<$($bound)*>($($argument: $type),*) $(-> $result)? {
                    portable::<$($generic),*>($($argument),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
                    // SAFETY: the processor has the features that the function was compiled for; AVX2 implies AVX, and
                    // every processor with BMI2 has BMI1.
                    #[allow(unsafe_code)]
                    return unsafe { avx2::<$($generic),*>($($argument),*) };
                }
            }
            portable::<$($generic),*>($($argument),*)
        }
    )*};
}

pub(super) use vectorised;
