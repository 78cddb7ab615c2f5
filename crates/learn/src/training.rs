use ndarray::Array2;
use rand::{Rng, RngCore};

use crate::network::softmax;
use crate::{Network, Real};

/// Windows with their classes.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    steps: usize,
    values: usize,
    x: Vec<f32>,
    extra: Vec<f32>,
    classes: Vec<usize>,
}

impl Samples {
    /// No window yet; each will have `steps x values` numbers.
    pub fn new(steps: usize, values: usize) -> Self {
        Self {
            steps,
            values,
            ..Self::default()
        }
    }

    /// Adds a window (`steps x values`, row-major), its extra number and its class. A window of another length is cut or filled
    /// with zeros.
    pub fn push(&mut self, window: &[f32], extra: f32, class: usize) {
        let n = self.steps * self.values;
        let from = self.x.len();
        self.x.extend(window.iter().take(n));
        self.x.resize(from + n, 0.0);
        self.extra.push(extra);
        self.classes.push(class);
    }

    /// Windows.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// The class of each window.
    pub fn classes(&self) -> &[usize] {
        &self.classes
    }

    /// A window, `steps x values`, row-major.
    pub fn window(&self, i: usize) -> &[f32] {
        let n = self.steps * self.values;
        &self.x[i * n..(i + 1) * n]
    }

    /// A window's numbers, to be changed.
    pub fn window_mut(&mut self, i: usize) -> &mut [f32] {
        let n = self.steps * self.values;
        &mut self.x[i * n..(i + 1) * n]
    }

    /// The extra number of a window.
    pub fn extra(&self, i: usize) -> f32 {
        self.extra[i]
    }

    /// The windows at these places as a network takes them: `values x (steps * batch)`, extra numbers, classes.
    pub fn batch<T: Real>(&self, places: &[usize]) -> (Array2<T>, Vec<T>, Vec<usize>) {
        let batch = places.len();
        let mut x = Array2::zeros((self.values, self.steps * batch));
        for (b, &i) in places.iter().enumerate() {
            for (k, v) in self.window(i).iter().enumerate() {
                let (step, value) = (k / self.values, k % self.values);
                x[[value, step * batch + b]] = T::of(f64::from(*v));
            }
        }
        let extra = places
            .iter()
            .map(|&i| T::of(f64::from(self.extra[i])))
            .collect();
        (x, extra, places.iter().map(|&i| self.classes[i]).collect())
    }
}

/// Adam (Kingma and Ba 2015) or Adam with Nesterov momentum (Dozat 2016).
#[derive(Clone, Debug)]
pub struct Optimizer {
    /// Learning rate.
    pub rate: f64,
    beta1: f64,
    epsilon: f64,
    nesterov: bool,
    steps: i32,
    /// Product of the momentum schedule so far.
    schedule: f64,
}

/// Factors of one step.
pub(crate) struct Coefficients {
    /// Of the gradient.
    pub(crate) gradient: f64,
    /// Of the first moment.
    pub(crate) momentum: f64,
    /// Of the second moment.
    pub(crate) second: f64,
}

impl Optimizer {
    const BETA1: f64 = 0.9;
    pub(crate) const BETA2: f64 = 0.999;

    /// Adam: betas 0.9 and 0.999, epsilon 1e-7.
    pub fn adam(rate: f64) -> Self {
        Self::adam_with(rate, Self::BETA1, 1e-7)
    }

    /// Adam with another first beta (0 to below 1) and epsilon (above 0).
    pub fn adam_with(rate: f64, beta1: f64, epsilon: f64) -> Self {
        Self {
            rate,
            beta1,
            epsilon,
            nesterov: false,
            steps: 0,
            schedule: 1.0,
        }
    }

    /// Nadam with the momentum schedule `0.9 (1 - 0.5 * 0.96^(0.004 t))`.
    pub fn nadam(rate: f64) -> Self {
        Self {
            nesterov: true,
            ..Self::adam(rate)
        }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> i32 {
        self.steps
    }

    /// Goes on after so many steps of Adam.
    pub fn resume(&mut self, steps: i32) {
        self.steps = steps;
    }

    pub(crate) fn betas(&self) -> (f64, f64) {
        (self.beta1, self.epsilon)
    }

    /// Counts a step; [`crate::Parameter::step`] of each parameter follows.
    pub fn advance(&mut self) {
        self.steps = self.steps.saturating_add(1);
        if self.nesterov {
            self.schedule *= Self::momentum(self.steps);
        }
    }

    fn momentum(step: i32) -> f64 {
        Self::BETA1 * (1.0 - 0.5 * 0.96f64.powf(0.004 * f64::from(step)))
    }

    pub(crate) fn coefficients(&self) -> Coefficients {
        let steps = self.steps.max(1);
        let second = 1.0 / (1.0 - Self::BETA2.powi(steps));
        if !self.nesterov {
            return Coefficients {
                gradient: 0.0,
                momentum: 1.0 / (1.0 - self.beta1.powi(steps)),
                second,
            };
        }
        let (now, next) = (
            Self::momentum(steps),
            Self::momentum(steps.saturating_add(1)),
        );
        Coefficients {
            gradient: (1.0 - now) / (1.0 - self.schedule),
            momentum: next / (1.0 - self.schedule * next),
            second,
        }
    }
}

/// How [`fit`] trains.
#[derive(Clone, Debug)]
pub struct Fit {
    /// Most passes over the samples.
    pub epochs: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Adam's learning rate.
    pub rate: f64,
    /// Passes without a better validation loss after which it ends; the best weights are kept.
    pub patience: usize,
    /// Passes without a better validation loss after which the rate is multiplied by 0.7.
    pub plateau: usize,
    /// For the plateau: how much smaller a loss must be to be a better one.
    pub gain: f64,
    /// Passes after a change of the rate that do not count for the next one.
    pub cooldown: usize,
}

impl Default for Fit {
    /// iPET's: 100 epochs of batches of 128 at 0.001, early stop after 16, plateau of 5 with 3 to cool down and a gain of 0.0001.
    fn default() -> Self {
        Self {
            epochs: 100,
            batch: 128,
            rate: 1e-3,
            patience: 16,
            plateau: 5,
            gain: 1e-4,
            cooldown: 3,
        }
    }
}

/// Lowers the rate when the loss stays where it is.
struct Plateau {
    best: f64,
    flat: usize,
    cooling: usize,
}

impl Plateau {
    /// Whether the rate goes down after a pass with this loss.
    fn reached(&mut self, loss: f64, how: &Fit) -> bool {
        if self.cooling > 0 {
            self.cooling -= 1;
            self.flat = 0;
        }
        if loss < self.best - how.gain {
            self.best = loss;
            self.flat = 0;
        } else if self.cooling == 0 {
            self.flat += 1;
            if self.flat >= how.plateau {
                self.cooling = how.cooldown;
                self.flat = 0;
                return true;
            }
        }
        false
    }
}

/// Trains by cross-entropy with a new Adam; calls `tick` after each pass with its number (from 1) and the mean loss. Gives the number of passes.
///
/// The validation loss has the penalties in it, as in Keras; the weights kept are those of the pass where it was smallest.
pub fn fit<T: Real>(
    net: &mut Network<T>,
    train: &Samples,
    validation: Option<&Samples>,
    how: &Fit,
    rng: &mut dyn RngCore,
    tick: &mut dyn FnMut(usize, f64),
) -> usize {
    net.forget();
    let mut optimizer = Optimizer::adam(how.rate);
    let mut order: Vec<usize> = (0..train.len()).collect();
    let mut best: Option<(f64, Network<T>)> = None;
    let mut plateau = Plateau {
        best: f64::INFINITY,
        flat: 0,
        cooling: 0,
    };
    let mut waited = 0;
    let mut passes = 0;
    for epoch in 1..=how.epochs {
        passes = epoch;
        for i in (1..order.len()).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        let mut sum = 0.0;
        for part in order.chunks(how.batch.max(1)) {
            let (x, extra, classes) = train.batch::<T>(part);
            let logits = net.forward(x, &extra, Some(&mut *rng));
            let (loss, d) = cross_entropy(&logits, &classes);
            sum += loss * part.len() as f64;
            net.backward(d);
            net.step(&mut optimizer);
        }
        tick(epoch, sum / train.len().max(1) as f64);
        let Some(validation) = validation else {
            continue;
        };
        let loss = net.loss(validation) + net.penalty();
        if plateau.reached(loss, how) {
            optimizer.rate *= 0.7;
        }
        if best.as_ref().is_none_or(|(b, _)| loss < *b) {
            best = Some((loss, net.clone()));
            waited = 0;
        } else {
            waited += 1;
            if waited >= how.patience {
                break;
            }
        }
    }
    if let Some((_, kept)) = best {
        *net = kept;
    }
    passes
}

/// Mean cross-entropy, nats, and its derivative by the logits.
pub(crate) fn cross_entropy<T: Real>(logits: &Array2<T>, classes: &[usize]) -> (f64, Array2<T>) {
    let mut p = softmax(logits);
    let n = classes.len().max(1) as f64;
    let mut loss = 0.0;
    for (b, &c) in classes.iter().enumerate() {
        loss -= p[[c, b]].max(1e-30).ln();
        p[[c, b]] -= 1.0;
    }
    (loss / n, p.mapv(|x| T::of(x / n)))
}

impl<T: Real> Network<T> {
    /// Mean cross-entropy of these classes and its derivative by the windows; the gradients of the weights are cleared.
    pub fn input_gradient(
        &mut self,
        x: Array2<T>,
        extra: &[T],
        classes: &[usize],
    ) -> (f64, Array2<T>) {
        let logits = self.forward(x, extra, None);
        let (loss, d) = cross_entropy(&logits, classes);
        let dx = self.backward(d);
        self.clear();
        (loss, dx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Layer};
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::from_seed([9; 32])
    }

    fn samples(steps: usize) -> Samples {
        let mut rng = rng();
        let mut s = Samples::new(steps, 3);
        for i in 0..5 {
            let x: Vec<f32> = (0..steps * 3).map(|_| rng.random::<f32>() - 0.4).collect();
            s.push(&x, rng.random(), i % 4);
        }
        s
    }

    /// Every gradient, and that by the input, against central differences in double precision.
    fn check(name: &str, layers: Vec<Layer<f64>>) {
        let steps = 7;
        let mut net = Network::new(steps, layers);
        let s = samples(steps);
        let all: Vec<usize> = (0..s.len()).collect();
        let (x, extra, classes) = s.batch::<f64>(&all);
        let loss = |net: &mut Network<f64>, x: &Array2<f64>| {
            let logits = net.forward(x.clone(), &extra, None);
            cross_entropy(&logits, &classes).0
        };
        let logits = net.forward(x.clone(), &extra, None);
        let (_, d) = cross_entropy(&logits, &classes);
        let dx = net.backward(d);
        let gradients: Vec<Array2<f64>> = net
            .parameters()
            .iter()
            .map(|p| p.gradient.clone())
            .collect();
        let h = 1e-6;
        for (k, g) in gradients.iter().enumerate() {
            assert!(
                g.iter().any(|v| *v != 0.0),
                "{name}: parameter {k} has no gradient"
            );
            for (i, j) in (0..g.nrows()).flat_map(|i| (0..g.ncols()).map(move |j| (i, j))) {
                let keep = net.parameters()[k].value[[i, j]];
                let at = |net: &mut Network<f64>, v: f64| {
                    net.parameters()[k].value[[i, j]] = v;
                    loss(net, &x)
                };
                let want = (at(&mut net, keep + h) - at(&mut net, keep - h)) / (2.0 * h);
                net.parameters()[k].value[[i, j]] = keep;
                let found = g[[i, j]];
                assert!(
                    (found - want).abs() < 1e-8,
                    "{name} {k} [{i},{j}]: {found} {want}"
                );
            }
        }
        for (i, j) in (0..x.nrows()).flat_map(|i| (0..x.ncols()).map(move |j| (i, j))) {
            let (mut up, mut down) = (x.clone(), x.clone());
            up[[i, j]] += h;
            down[[i, j]] -= h;
            let want = (loss(&mut net, &up) - loss(&mut net, &down)) / (2.0 * h);
            assert!(
                (dx[[i, j]] - want).abs() < 1e-8,
                "{name} x[{i},{j}]: {} {want}",
                dx[[i, j]]
            );
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let r = &mut rng();
        let end = |inputs: usize, r: &mut ChaCha20Rng| {
            vec![
                Layer::Extra,
                Layer::dense(inputs + 1, 5, Activation::Tanh, r),
                Layer::dense(5, 4, Activation::None, r),
            ]
        };
        let mut layers = vec![
            Layer::bi_lstm(3, 4, true, 0.0, r),
            Layer::bi_lstm(8, 3, false, 0.0, r),
        ];
        layers.extend(end(6, r));
        check("lstm", layers);
        let mut layers = vec![
            Layer::gru(3, 4, true, 0.0, r),
            Layer::gru(4, 3, false, 0.0, r),
        ];
        layers.extend(end(3, r));
        check("gru", layers);
        let mut layers = vec![
            Layer::conv(3, 4, 3, r),
            Layer::conv(4, 4, 2, r),
            Layer::max_pool(),
            Layer::Flatten,
        ];
        layers.extend(end(8, r));
        check("conv", layers);
        let mut layers = vec![
            Layer::dense(3, 4, Activation::Sigmoid, r),
            Layer::dense(4, 2, Activation::Tanh, r),
            Layer::Flatten,
        ];
        layers.extend(end(14, r));
        check("dense", layers);
    }

    /// With a given start, every gradient of the LSTM against central differences in double precision.
    #[test]
    fn lstm_gradients_from_a_start_agree_with_finite_differences() {
        let mut rng = rng();
        let draw = |rows: usize, columns: usize, rng: &mut ChaCha20Rng| {
            Array2::from_shape_simple_fn((rows, columns), || rng.random::<f64>() - 0.5)
        };
        let mut lstm = crate::Lstm::<f64>::new(3, 4, false, &mut rng);
        let (x, weight) = (draw(3, 6, &mut rng), draw(4, 6, &mut rng));
        let start = [draw(4, 2, &mut rng), draw(4, 2, &mut rng)];
        let loss = |lstm: &crate::Lstm<f64>| {
            let h = lstm.clone().forward_from(x.clone(), 2, Some(start.clone()));
            (&h * &weight).sum()
        };
        lstm.forward_from(x.clone(), 2, Some(start.clone()));
        lstm.backward(weight.clone(), 2);
        type Part = fn(&mut crate::Lstm<f64>) -> &mut crate::Parameter<f64>;
        let parts: [Part; 3] = [|l| &mut l.weights, |l| &mut l.recurrent, |l| &mut l.bias];
        let h = 1e-6;
        for part in parts {
            let gradient = part(&mut lstm).gradient.clone();
            for ((i, j), g) in gradient.indexed_iter() {
                let at = |by: f64| {
                    let mut moved = lstm.clone();
                    part(&mut moved).value[[i, j]] += by;
                    loss(&moved)
                };
                let want = (at(h) - at(-h)) / (2.0 * h);
                assert!((g - want).abs() < 1e-8, "[{i},{j}]: {g} {want}");
            }
        }
    }

    #[test]
    fn dropout_keeps_the_mean_and_is_off_outside_training() {
        let mut layer = Layer::<f64>::dropout(0.25);
        let x = Array2::from_elem((100, 100), 1.0);
        let y = layer.forward(x.clone(), &[0.0; 100], Some(&mut rng()));
        assert!((y.mean().unwrap_or(0.0) - 1.0).abs() < 0.03);
        assert_eq!(layer.backward(x.clone(), 100), y);
        assert_eq!(layer.forward(x.clone(), &[0.0; 100], None), x);
    }

    /// Keras' callback: the rate goes down after `plateau` passes without enough gain; the passes of the cooldown do not count.
    #[test]
    fn a_plateau_is_reached_after_its_passes_and_cools_down() {
        let how = Fit {
            plateau: 2,
            gain: 0.1,
            cooldown: 3,
            ..Fit::default()
        };
        let lowered = |losses: &[f64]| -> Vec<usize> {
            let mut p = Plateau {
                best: f64::INFINITY,
                flat: 0,
                cooling: 0,
            };
            let at = |(i, l): (usize, &f64)| p.reached(*l, &how).then_some(i + 1);
            losses.iter().enumerate().filter_map(at).collect()
        };
        // From pass 4 on flat: two to wait, two of the three to cool down (the third ends with its pass), two to wait.
        assert_eq!(
            lowered(&[1.0, 0.8, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]),
            [5, 9]
        );
        // A gain below the least is none, however often it comes; the losses add up against the best one, though.
        assert_eq!(lowered(&[1.0, 0.95, 0.91, 0.5]), [3]);
        assert_eq!(lowered(&[1.0, 0.95, 0.89, 0.85, 0.78]), [0usize; 0]);
    }

    #[test]
    fn recurrent_weights_start_with_orthonormal_columns() {
        let Layer::BiLstm(pair, _) = Layer::<f64>::bi_lstm(3, 8, true, 0.0, &mut rng()) else {
            panic!("a pair");
        };
        for lstm in pair.iter() {
            let w = &lstm.recurrent.value;
            assert_eq!(w.dim(), (32, 8));
            for ((i, j), x) in w.t().dot(w).indexed_iter() {
                assert!(
                    (x - f64::from(u8::from(i == j))).abs() < 1e-12,
                    "{i} {j} {x}"
                );
            }
        }
    }

    /// Training stops by the loss with the penalty in it: here only the penalty falls.
    #[test]
    fn the_validation_loss_has_the_penalty_in_it() {
        let (train, mut wrong) = (samples(7), Samples::new(7, 3));
        // What is learnt is wrong for these, so the cross-entropy alone would end after the first pass.
        for i in 0..train.len() {
            wrong.push(
                train.window(i),
                train.extra(i),
                (train.classes()[i] + 1) % 4,
            );
        }
        let how = Fit {
            epochs: 30,
            batch: 5,
            patience: 3,
            ..Fit::default()
        };
        let passes = |penalty: f64| {
            let pair = Layer::<f64>::bi_lstm(3, 4, false, penalty, &mut rng());
            let dense = Layer::dense(8, 4, Activation::None, &mut rng());
            let mut net = Network::new(7, vec![pair, dense]);
            fit(
                &mut net,
                &train,
                Some(&wrong),
                &how,
                &mut rng(),
                &mut |_, _| {},
            )
        };
        assert_eq!(passes(10.0), 30);
        assert!(passes(0.0) < 30, "{}", passes(0.0));
    }

    #[test]
    fn nadam_follows_its_published_recursion() {
        let mut o = Optimizer::nadam(0.01);
        let mut schedule = 1.0;
        for t in 1..50i32 {
            o.advance();
            let u = |t: i32| 0.9 * (1.0 - 0.5 * 0.96f64.powf(0.004 * f64::from(t)));
            schedule *= u(t);
            let c = o.coefficients();
            assert!((c.gradient - (1.0 - u(t)) / (1.0 - schedule)).abs() < 1e-12);
            assert!((c.momentum - u(t + 1) / (1.0 - schedule * u(t + 1))).abs() < 1e-12);
        }
    }
}
