//! Scalar functions of the losses, stable for arguments of any size.

/// Returns log(1 + eˣ), which is -log σ(-x).
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Returns σ(x) = 1 / (1 + e⁻ˣ).
pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let power = x.exp();
        power / (1.0 + power)
    }
}

/// Returns log(1 - eˣ) for x < 0: Mächler 2012,
/// <https://cran.r-project.org/web/packages/Rmpfr/vignettes/log1mexp-note.pdf>.
pub(super) fn log_one_minus_exp(x: f64) -> f64 {
    if x > -std::f64::consts::LN_2 {
        (-x.exp_m1()).ln()
    } else {
        (-x.exp()).ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_arguments_stay_finite() {
        for x in [-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0] {
            assert!((softplus(x) - softplus(-x) - x).abs() < 1e-12, "{x}");
            assert!((sigmoid(x) + sigmoid(-x) - 1.0).abs() < 1e-15, "{x}");
        }
        assert!((softplus(0.0) - 2_f64.ln()).abs() < 1e-15);
        for x in [-1e-12, -1e-3, -0.5, -0.8, -30.0, -800.0] {
            let found = log_one_minus_exp(x);
            assert!(found.is_finite() && found <= 0.0, "{x}: {found}");
        }
        assert!((log_one_minus_exp(-0.5) - (1.0 - (-0.5_f64).exp()).ln()).abs() < 1e-15);
    }
}
