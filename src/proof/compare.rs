//! A device's results compared with the CPU's, site by site, by the norm of the difference and by
//! its largest element.
//!
//! The norm shows an error that is small but everywhere, the largest element one that is in one
//! place.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Products;
use super::recording::Site;
use crate::terms::ModelDtype;

/// The largest accepted deviation of a device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// The largest ‖device - CPU‖ / ‖CPU‖.
    pub norm: f64,
    /// The largest max |device - CPU| / max |CPU|.
    pub largest: f64,
}

impl Bound {
    /// Bound where everything is computed in 32 bits.
    ///
    /// Over all families Mesa's software adapter is off by 2e-5 at the worst site: another order of
    /// summing, made larger where attention subtracts nearly equal numbers. 1e-3 lies far above
    /// that, and far below the error of a wrong kernel.
    pub const FLOAT32: Self = Self {
        norm: 1e-3,
        largest: 1e-3,
    };
    /// Bound where products of float32 operands are computed in TF32.
    ///
    /// A model of it on the CPU, with operands rounded to 10 bits of mantissa, is off by 1.4e-2 of
    /// the norm and 2.0e-2 of the largest element at the worst site. This is 3.5 times that, and
    /// far below the error of a wrong kernel. That the kernels are right is proven in float32
    /// first.
    pub const TF32: Self = Self {
        norm: 5e-2,
        largest: 7e-2,
    };
    /// Bound where layers pass on float16: its unit of rounding is 8192 times that of 32 bits.
    /// Mesa's adapter is off by 3.1e-2 and 3.0e-2.
    pub const FLOAT16: Self = Self {
        norm: 8e-2,
        largest: 0.16,
    };
    /// Bound where layers pass on bfloat16: its unit of rounding is eight times that of float16.
    /// Only gross errors exceed it; that the same kernels are right is proven in 32 bits first.
    pub const BFLOAT16: Self = Self {
        norm: 0.5,
        largest: 0.7,
    };

    /// Returns the bound for a model kept in `dtype`. The CPU computes with the same numbers, in 32
    /// bits.
    pub fn of(dtype: ModelDtype, products: Products) -> Self {
        match (dtype, products) {
            (ModelDtype::Auto | ModelDtype::Float32, Products::Float32) => Self::FLOAT32,
            (ModelDtype::Auto | ModelDtype::Float32, Products::Tf32) => Self::TF32,
            (ModelDtype::Bfloat16, _) => Self::BFLOAT16,
            (ModelDtype::Float16, _) => Self::FLOAT16,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { norm, largest } = self;
        write!(
            f,
            "{norm:.0e} of their norm and {largest:.0e} of their largest element"
        )
    }
}

/// Difference of a site from the CPU's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The device has no such site: what it computed before ended the step.
    Missing,
    /// The lengths differ.
    Length {
        /// Length on the device.
        found: usize,
        /// Length on the CPU.
        expected: usize,
    },
    /// Some numbers are infinite or NaN.
    NotFinite {
        /// How many.
        numbers: usize,
    },
    /// All numbers are zero, but the CPU's are not.
    Zero,
    /// The numbers differ.
    Error {
        /// ‖device - CPU‖ / ‖CPU‖.
        norm: f64,
        /// max |device - CPU| / max |CPU|.
        largest: f64,
    },
}

impl Difference {
    fn between(found: Option<&[f32]>, expected: &[f32]) -> Self {
        let Some(found) = found else {
            return Self::Missing;
        };
        if found.len() != expected.len() {
            return Self::Length {
                found: found.len(),
                expected: expected.len(),
            };
        }
        let not_finite = found.iter().filter(|value| !value.is_finite()).count();
        if not_finite > 0 {
            return Self::NotFinite {
                numbers: not_finite,
            };
        }
        let is_zero = |values: &[f32]| values.iter().all(|value| *value == 0.0);
        if is_zero(found) && !is_zero(expected) {
            return Self::Zero;
        }
        let (mut of_difference, mut of_expected) = (Size::default(), Size::default());
        for (found, expected) in found.iter().zip(expected) {
            of_difference.add(f64::from(*found) - f64::from(*expected));
            of_expected.add(f64::from(*expected));
        }
        Self::Error {
            norm: share(of_difference.squares.sqrt(), of_expected.squares.sqrt()),
            largest: share(of_difference.largest, of_expected.largest),
        }
    }

    /// Returns the deviation as a multiple of the bound.
    fn error(self, bound: Bound) -> f64 {
        match self {
            Self::Error { norm, largest } => (norm / bound.norm).max(largest / bound.largest),
            _ => f64::INFINITY,
        }
    }
}

#[derive(Default)]
struct Size {
    squares: f64,
    largest: f64,
}

impl Size {
    fn add(&mut self, value: f64) {
        self.squares += value * value;
        self.largest = self.largest.max(value.abs());
    }
}

/// Returns `part / whole`, a huge number where `whole` is 0 and `part` is not.
fn share(part: f64, whole: f64) -> f64 {
    if part == 0.0 {
        0.0
    } else {
        part / whole.max(f64::from(f32::MIN_POSITIVE))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("was not reached"),
            Self::Length { found, expected } => {
                write!(f, "has {found} numbers, expected {expected}")
            }
            Self::NotFinite { numbers } => write!(f, "has {numbers} numbers that are not finite"),
            Self::Zero => f.write_str("is zero, that of the CPU is not"),
            Self::Error { norm, largest } => {
                write!(
                    f,
                    "is off by {norm:.1e} of its norm, and at its worst element by \
                    {largest:.1e} of the largest"
                )
            }
        }
    }
}

/// A site and its deviation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The place in training.
    pub site: String,
    /// The deviation.
    pub difference: Difference,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.site, self.difference)
    }
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Sites that were compared.
    pub sites: usize,
    /// Sites that exceed the bound.
    pub failures: usize,
    /// The largest accepted deviation of a site.
    pub bound: Bound,
    /// The first site in the order of computing that exceeds the bound; what comes after it may
    /// follow from it.
    pub first: Option<Finding>,
    /// The site with the largest deviation.
    pub worst: Finding,
}

impl Verdict {
    /// Compares a device's sites with the CPU's.
    pub(super) fn of(device: &[Site], cpu: &[Site], bound: Bound) -> Self {
        let found: HashMap<&str, &[f32]> = device
            .iter()
            .map(|site| (&*site.name, &*site.values))
            .collect();
        let compared = cpu.iter().map(|Site { name, values }| {
            let difference = Difference::between(found.get(name.as_str()).copied(), values);
            Finding {
                site: name.clone(),
                difference,
            }
        });
        let findings: Vec<Finding> = compared.collect();
        let is_off = |finding: &&Finding| finding.difference.error(bound) > 1.0;
        // Of equals the first.
        let worse = |one: Finding, other: Finding| {
            if other.difference.error(bound) > one.difference.error(bound) {
                other
            } else {
                one
            }
        };
        Self {
            sites: findings.len(),
            failures: findings.iter().filter(is_off).count(),
            bound,
            first: findings.iter().find(is_off).cloned(),
            worst: findings
                .into_iter()
                .reduce(worse)
                .expect("two steps have sites"),
        }
    }

    /// Whether training on the device is proven.
    pub fn is_proven(&self) -> bool {
        self.failures == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sites,
            failures,
            bound,
            first,
            worst,
        } = self;
        let Some(first) = first else {
            return write!(
                f,
                "all {sites} sites are within {bound}; {worst}, which is the most"
            );
        };
        write!(
            f,
            "{failures} of {sites} sites are out of {bound}; first {first}"
        )?;
        if worst == first {
            Ok(())
        } else {
            write!(f, "; {worst}, which is the most")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str, values: &[f32]) -> Site {
        Site {
            name: name.to_owned(),
            values: values.to_vec(),
        }
    }

    const ONE: Bound = Bound {
        norm: 1.0,
        largest: 1.0,
    };

    fn difference(found: &[f32], expected: &[f32]) -> Difference {
        Verdict::of(&[site("a", found)], &[site("a", expected)], ONE)
            .worst
            .difference
    }

    #[test]
    fn differences_are_of_the_norm_and_of_the_largest_element() {
        assert_eq!(
            difference(&[3.0, 4.0], &[3.0, 4.0]),
            Difference::Error {
                norm: 0.0,
                largest: 0.0
            }
        );
        assert_eq!(
            difference(&[3.0, 4.5], &[3.0, 4.0]),
            Difference::Error {
                norm: 0.1,
                largest: 0.125
            }
        );
        assert_eq!(
            difference(&[f32::NAN, f32::INFINITY, 1.0], &[1.0; 3]),
            Difference::NotFinite { numbers: 2 }
        );
        assert_eq!(difference(&[0.0; 2], &[1.0, 0.0]), Difference::Zero);
        assert_eq!(
            difference(&[0.0; 2], &[0.0, 0.0]),
            Difference::Error {
                norm: 0.0,
                largest: 0.0
            }
        );
        assert!(
            difference(&[1e-9, 0.0], &[0.0, 0.0]).error(ONE) > 1.0,
            "something where there is nothing"
        );
        assert_eq!(
            difference(&[1.0], &[1.0, 0.0]),
            Difference::Length {
                found: 1,
                expected: 2
            }
        );
    }

    #[test]
    fn one_wrong_element_of_many_is_out_of_the_bound_that_the_norm_would_keep() {
        let right = vec![1.0; 1 << 20];
        let mut wrong = right.clone();
        wrong[77] = 1.01;
        let Difference::Error { norm, largest } = difference(&wrong, &right) else {
            panic!("finite and of one length")
        };
        assert!(norm < 1e-4 && largest > 9e-3, "{norm} {largest}");
    }

    #[test]
    fn the_first_and_the_worst_are_named() {
        let cpu = [
            site("a", &[1.0]),
            site("b", &[1.0]),
            site("c", &[1.0]),
            site("d", &[1.0]),
        ];
        let device = [site("d", &[1.5]), site("b", &[1.1]), site("a", &[1.0])];
        let verdict = Verdict::of(&device, &cpu, Bound::FLOAT32);
        assert_eq!(
            (verdict.sites, verdict.failures, verdict.is_proven()),
            (4, 3, false)
        );
        let said = verdict.to_string();
        let expected = "3 of 4 sites are out of 1e-3 of their norm and 1e-3 of their largest \
        element; first b is off by 1.0e-1 of its norm, and at its worst element by 1.0e-1 of the \
                        largest; c was not reached, which is the most";
        assert_eq!(said, expected);
        let same = Verdict::of(
            &cpu,
            &cpu,
            Bound {
                norm: f64::MIN_POSITIVE,
                largest: f64::MIN_POSITIVE,
            },
        );
        assert!(
            same.is_proven() && same.worst.difference.error(ONE) == 0.0,
            "{same}"
        );
    }
}
