//! Training: critics against the generator, a chunk at a time.

use chaff_learn::{Critic, Optimizer, Parameter, Scores, cut, cut_mut};
use chaff_privacy::Run;
use ndarray::{Array2, ArrayView2, Axis};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::config::Net;
use super::generator::{Generator, Noise, Shape};
use crate::SynthError;
use crate::address::key;

/// All networks of a chunk with their optimizers.
#[derive(Clone)]
pub(crate) struct Nets {
    pub(crate) generator: Generator<f32>,
    /// On whole flows, and on attributes.
    critics: Vec<Critic<f32>>,
    optimizers: Vec<Optimizer>,
}

/// Means over an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Score of made-up flows less that of real ones, negative: an estimate of the Wasserstein distance.
    pub distance: f64,
    /// Mean squared difference of the critic's slope from 1.
    pub penalty: f64,
    /// Generator's loss.
    pub generator: f64,
}

impl Nets {
    pub(crate) fn new(shape: Shape, net: &Net, rng: &mut dyn RngCore) -> Self {
        let mut critics = vec![Critic::new(
            shape.size(),
            net.widths[1].0,
            net.widths[1].1,
            rng,
        )];
        if net.attribute_critic {
            let (hidden, units) = net.widths[2];
            critics.push(Critic::new(shape.attribute_size(), hidden, units, rng));
        }
        let mut nets = Self {
            generator: Generator::new(shape, rng),
            critics,
            optimizers: Vec::new(),
        };
        nets.restart(net);
        nets
    }

    /// New optimizers, for the next chunk.
    pub(crate) fn restart(&mut self, net: &Net) {
        let of = |(rate, beta): (f64, f64)| Optimizer::adam_with(rate, beta, net.epsilon);
        self.optimizers = net.rates.iter().map(|r| of(*r)).collect();
        self.parameters().for_each(Parameter::forget);
    }

    fn parameters(&mut self) -> impl Iterator<Item = &mut Parameter<f32>> {
        let critics = self.critics.iter_mut().flat_map(Critic::parameters);
        self.generator.parameters().into_iter().chain(critics)
    }

    /// Everything that later steps depend on.
    pub(crate) fn state(&mut self) -> Vec<f32> {
        let mut out: Vec<f32> = self.optimizers.iter().map(|o| o.steps() as f32).collect();
        for p in self.parameters() {
            for part in p.parts_mut() {
                out.extend(part.iter());
            }
        }
        for m in self.generator.running() {
            out.extend(m.iter());
        }
        out
    }

    /// Goes on from [`Nets::state`]; `None` when it is of another shape.
    pub(crate) fn set_state(&mut self, state: &[f32]) -> Option<()> {
        let (steps, mut rest) = state.split_at_checked(self.optimizers.len())?;
        for (o, n) in self.optimizers.iter_mut().zip(steps) {
            o.resume(*n as i32);
        }
        let mut fill = |m: &mut Array2<f32>| -> Option<()> {
            let (own, after) = rest.split_at_checked(m.len())?;
            m.iter_mut().zip(own).for_each(|(v, s)| *v = *s);
            rest = after;
            Some(())
        };
        for p in self.parameters() {
            for part in p.parts_mut() {
                fill(part)?;
            }
        }
        for m in self.generator.running() {
            fill(m)?;
        }
        rest.is_empty().then_some(())
    }

    /// One round of both critics. With `private` each sample's share of their common gradient is bounded, and noise added.
    fn critic_round(
        &mut self,
        real: &Array2<f32>,
        net: &Net,
        rng: &mut dyn RngCore,
        private: Option<&mut Bound<'_>>,
    ) -> Scores {
        let fake = self
            .generator
            .forward(Noise::draw(&self.generator.shape, net.batch, rng));
        let mut mixed = real.clone();
        for (j, mut column) in mixed.columns_mut().into_iter().enumerate() {
            let share: f32 = rng.random();
            let other = fake.column(j % fake.ncols());
            column.zip_mut_with(&other, |r, f| *r += share * (f - *r));
        }
        let from = self.generator.shape.records_size();
        let part = |m: &Array2<f32>, critic: usize| -> Array2<f32> {
            if critic == 0 {
                m.clone()
            } else {
                cut(m.view(), from.., ..).to_owned()
            }
        };
        let mut of_flows = Scores::default();
        for (k, critic) in self.critics.iter_mut().enumerate() {
            let (real, fake, mixed) = (part(real, k), part(&fake, k), part(&mixed, k));
            let scores = critic.sweep(
                real.view(),
                fake.view(),
                mixed.view(),
                net.penalty[k],
                private.is_some(),
            );
            if k == 0 {
                of_flows = scores;
            }
        }
        if let Some(bound) = private {
            bound.apply(&mut self.critics);
        } else {
            self.critics.iter_mut().for_each(Critic::collect);
        }
        for (critic, optimizer) in self.critics.iter_mut().zip(&mut self.optimizers[1..]) {
            optimizer.advance();
            critic.parameters().for_each(|p| p.step(optimizer));
        }
        of_flows
    }

    fn generator_round(&mut self, net: &Net, rng: &mut dyn RngCore) -> f64 {
        let noise = Noise::draw(&self.generator.shape, net.batch, rng);
        let fake = self.generator.forward(noise);
        let from = self.generator.shape.records_size();
        let mut loss = 0.0;
        let attributes = cut(fake.view(), from.., ..).to_owned();
        let (mean, mut d) = self.critics[0].pull(fake, 1.0);
        loss -= mean;
        if let Some(critic) = self.critics.get_mut(1) {
            let (mean, more) = critic.pull(attributes, net.attribute_weight);
            loss -= net.attribute_weight * mean;
            let mut own = cut_mut(d.view_mut(), from.., ..);
            own += &more;
        }
        self.generator.backward(d.view());
        self.optimizers[0].advance();
        let how = &self.optimizers[0];
        self.generator
            .parameters()
            .into_iter()
            .for_each(|p| p.step(how));
        loss
    }
}

/// The bound on what one flow adds to the critics' gradient, and the noise on the sum.
struct Bound<'a> {
    run: &'a mut Run,
    clip: f64,
    /// Flows of a step on average, which is public.
    expected: f64,
}

impl Bound<'_> {
    fn apply(&mut self, critics: &mut [Critic<f32>]) {
        let mut squares: Vec<f64> = Vec::new();
        for critic in critics.iter() {
            let own = critic.squared_norms();
            squares.resize(own.len(), 0.0);
            squares.iter_mut().zip(own).for_each(|(a, b)| *a += b);
        }
        // What is not a number would pass every bound.
        let factor = |square: f64| match square.is_finite() {
            true => (self.clip / square.sqrt().max(1e-12)).min(1.0) / self.expected,
            false => 0.0,
        };
        let factors: Vec<f64> = squares.into_iter().map(factor).collect();
        for critic in critics {
            critic.scale(&factors);
            critic.collect();
            for p in critic.parameters() {
                for g in &mut p.gradient {
                    *g += (self.run.noise(self.clip) / self.expected) as f32;
                }
            }
        }
    }
}

/// What a training run draws its randomness from: another stream for each epoch, so that it can go on after any.
pub(crate) struct Stream(pub(crate) Vec<u64>);

impl Stream {
    fn epoch(&self, epoch: usize) -> ChaCha8Rng {
        let mut words = self.0.clone();
        words.push(epoch as u64);
        ChaCha8Rng::seed_from_u64(key(&words))
    }
}

fn columns(of: &Array2<f32>, places: &[usize]) -> Array2<f32> {
    of.select(Axis(1), places)
}

/// Iterations of an epoch: whole batches, at least one.
pub(crate) fn iterations(flows: usize, batch: usize) -> usize {
    (flows / batch).max(1)
}

/// One pass over the flows: as many generator steps as there are whole batches of them, each after its critic rounds.
/// Every round has its own batch and its own noise.
pub(crate) fn epoch(
    nets: &mut Nets,
    flows: &Array2<f32>,
    net: &Net,
    stream: &Stream,
    number: usize,
) -> Losses {
    let mut rng = stream.epoch(number);
    let n = flows.ncols();
    let mut order: Vec<usize> = Vec::new();
    let mut next = |rng: &mut ChaCha8Rng| -> Array2<f32> {
        let mut places = Vec::with_capacity(net.batch);
        while places.len() < net.batch {
            if order.is_empty() {
                order = (0..n).collect();
                for i in (1..n).rev() {
                    order.swap(i, rng.random_range(0..=i));
                }
            }
            places.extend(order.pop());
        }
        columns(flows, &places)
    };
    let rounds = iterations(n, net.batch);
    let mut sum = Losses::default();
    let share = 1.0 / rounds as f64;
    for _ in 0..rounds {
        for _ in 0..net.critic_rounds {
            let real = next(&mut rng);
            let scores = nets.critic_round(&real, net, &mut rng, None);
            let share = share / net.critic_rounds as f64;
            sum.distance += (scores.fake - scores.real) * share;
            sum.penalty += scores.penalty * share;
        }
        for _ in 0..net.generator_rounds {
            sum.generator +=
                nets.generator_round(net, &mut rng) * share / net.generator_rounds as f64;
        }
    }
    sum
}

/// As [`epoch`], of `rounds` iterations whose critic rounds are steps of `run`. Nothing of the losses is given, for they
/// are not private.
pub(crate) fn private_epoch(
    nets: &mut Nets,
    flows: &Array2<f32>,
    net: &Net,
    run: &mut Run,
    rounds: usize,
    stream: &Stream,
    number: usize,
) -> Result<(), SynthError> {
    let mut rng = stream.epoch(number);
    for _ in 0..rounds {
        for _ in 0..net.critic_rounds {
            let places = run.sample(flows.ncols())?;
            let real = columns(flows, &places);
            let mut bound = Bound {
                clip: net.clip,
                expected: net.batch as f64,
                run,
            };
            nets.critic_round(&real, net, &mut rng, Some(&mut bound));
        }
        for _ in 0..net.generator_rounds {
            nets.generator_round(net, &mut rng);
        }
    }
    Ok(())
}

/// A batch of attributes, hard choices not made.
pub(crate) fn draw_attributes(
    generator: &mut Generator<f32>,
    batch: usize,
    rng: &mut dyn RngCore,
) -> Array2<f32> {
    let noise = generator.attribute_noise(batch, rng);
    generator.infer_attributes(noise)
}

/// Whole flows for attributes that are given.
pub(crate) fn draw_flows(
    generator: &mut Generator<f32>,
    attributes: ArrayView2<'_, f32>,
    rng: &mut dyn RngCore,
) -> Array2<f32> {
    let attributes = attributes.to_owned();
    let noise = Noise::draw(&generator.shape, attributes.ncols(), rng);
    generator.infer_records(&attributes, noise)
}
