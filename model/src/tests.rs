//! Small explorations of each scenario, and that each begins in the state that it is meant to.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use crate::run::{Extent, explore};
use crate::scenario::ALL;
use crate::world::World;

#[test]
fn every_scenario_begins_in_a_state_from_which_something_good_can_happen() {
    for scenario in ALL {
        let world = World::begin_of(scenario)
            .unwrap_or_else(|world| panic!("{} begins:\n{}", scenario.name, world.told()));
        assert!(world.ghost.broken.is_none(), "{}: {}", scenario.name, world.told());
        assert!(world.can_do_good(), "{}: {}", scenario.name, world.told());
    }
}

#[test]
fn no_property_is_violated_within_some_hundred_states_of_each_scenario() {
    for scenario in ALL {
        let extent = Extent { states: Some(600), depth: Some(5), threads: 1 };
        let explored = explore(scenario, extent).unwrap();
        assert!(explored.unique > 50, "{}: {explored:?}", scenario.name);
        assert!(explored.violation.is_none(), "{}: {:?}", scenario.name, explored.violation);
    }
}

#[test]
fn the_same_exploration_twice_counts_the_same() {
    let extent = Extent { states: Some(600), depth: Some(5), threads: 1 };
    let counted = || {
        let explored = explore(&ALL[0], extent).unwrap();
        (explored.generated, explored.unique, explored.depth)
    };
    assert_eq!(counted(), counted());
}
