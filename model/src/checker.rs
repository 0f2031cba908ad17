//! The world as stateright explores it, and the properties.

use stateright::{Model, Property};

use crate::actions::Action;
use crate::ghost::Rule;
use crate::scenario::Scenario;
use crate::world::World;

/// The property that looks ahead.
pub(crate) const GOOD: &str = "something good can still happen";

/// One scenario's space.
pub struct Space {
    scenario: Scenario,
    begin: Vec<World>,
}

impl Space {
    /// The space of a scenario; none when its beginning does not come about, which is a defect of its own.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Option<Self> {
        let begin = World::begin_of(scenario).ok();
        Some(Self { scenario: *scenario, begin: vec![begin?] })
    }

    /// Whether this state is one of those that are asked whether something good can still happen.
    fn is_asked(&self, world: &World) -> bool {
        world.fingerprint().is_multiple_of(self.scenario.good_every.max(1))
    }
}

fn keeps(world: &World, rule: Rule) -> bool {
    world.ghost.broken.as_ref().is_none_or(|broken| broken.rule != rule)
}

impl Model for Space {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        self.begin.clone()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = Property::<Self>::always;
        vec![
            always("one primary answers in each epoch, and none after a newer one", |_, world| {
                keeps(world, Rule::OnePrimary)
            }),
            always("what was acknowledged or read does not vanish", |_, world| {
                keeps(world, Rule::NothingVanishes)
            }),
            always("each in-sync copy is full and has all that was acknowledged or read", |_, world| {
                keeps(world, Rule::InSyncHasAll)
            }),
            always("a primary was in sync when it was named", |_, world| keeps(world, Rule::PromotedInSync)),
            always("a failover replaces only a primary that is down", |_, world| {
                keeps(world, Rule::FailedOverWhenDown)
            }),
            always("an accepted in-sync set names its members' present runs", |_, world| {
                keeps(world, Rule::MembersAreCurrent)
            }),
            always("an epoch is on disk before it is answered under", |_, world| {
                keeps(world, Rule::EpochStored)
            }),
            always("the last in-sync copy is not given up", |_, world| keeps(world, Rule::LastCopyStays)),
            always("the replicated state's invariants hold, and nothing panics", |_, world| {
                keeps(world, Rule::StateHolds)
            }),
            always("a command that is repeated changes nothing", |_, world| {
                keeps(world, Rule::RepeatsChangeNothing)
            }),
            always(GOOD, |space, world| {
                world.ghost.broken.is_some() || !space.is_asked(world) || world.can_do_good()
            }),
        ]
    }
}
