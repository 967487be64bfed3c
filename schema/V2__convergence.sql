-- What makes a long past cheap and conflicts easy to list; which regions are known. Released files never change.

alter table documents add column keyframe_in bigint not null default 256;
-- A gateway built before keyframes would not remove those that its commits invalidate: it must not write any more.
alter table documents alter column keyframe_in drop default;
comment on column documents.keyframe_in is 'Events of this document until its next keyframe is due.';
comment on column documents.conflicts is 'Its conflicts, sorted by id: [{"id","rule","shown"}]; null: none.';
-- Earlier rows hold bare ids, from which nothing is shown: the fold that makes them again is `tidegate rebuild documents`.
update documents set conflicts = (
    select json_agg(json_build_object('id', id, 'rule', 'last') order by id) from json_array_elements_text(conflicts) as id
) where conflicts is not null;
create index documents_with_conflicts on documents (database, doc) where conflicts is not null;

-- A client's own events on a document, in T order: what its author had seen whatever his base says.
create index events_of_a_client on events (database, doc, client, stamp, region, position);

create table keyframes (
    database integer not null,
    doc      text collate "C" not null,
    stamp    bigint not null,
    region   text collate "C" not null,
    position bigint not null,
    latest   text collate "C" not null,
    state    text not null,
    constraint keyframes_are_known_by_place primary key (database, doc, stamp, region, position)
);
comment on table keyframes is 'The state of a document''s fold at some place in T. May be lost at the cost of folding from the beginning.';
comment on column keyframes.database is 'Which database.';
comment on column keyframes.doc is 'The document.';
comment on column keyframes.stamp is 'Of the last event it took in.';
comment on column keyframes.region is 'Of the last event it took in.';
comment on column keyframes.position is 'Of the last event it took in.';
comment on column keyframes.latest is 'For each region the last event it took in, region:position:client, and the last by another client.';
comment on column keyframes.state is 'All that the fold goes on from, JSON.';

create table copies (
    database integer not null,
    doc      text collate "C" not null,
    id       uuid not null,
    sent     bytea not null,
    stamp    bigint not null,
    region   text collate "C" not null,
    position bigint not null,
    client   uuid not null,
    constraint copies_are_known_by_place primary key (database, doc, region, position)
);
comment on table copies is 'Every place of the ops that stand in more than one journal: to have seen one is to have seen the op.';
comment on column copies.database is 'Which database.';
comment on column copies.doc is 'The document.';
comment on column copies.id is 'The op''s id.';
comment on column copies.sent is 'SHA-256 of the op as sent.';
comment on column copies.stamp is 'Of the event.';
comment on column copies.region is 'Of the event.';
comment on column copies.position is 'Of the event.';
comment on column copies.client is 'Of the event.';
insert into copies (database, doc, id, sent, stamp, region, position, client)
    select database, doc, id, decode(left(right(content, 66), 64), 'hex'), stamp, region, position, client from (
        select *, count(*) over (partition by database, doc, id, left(right(content, 66), 64)) as places from events
    ) as counted where places > 1;

create table regions (
    region         text collate "C" primary key,
    retired_at     timestamptz,
    accepted_until bigint not null default 0
);
comment on table regions is 'Other regions that were heard of, and what an operator said of them.';
comment on column regions.region is 'Which region.';
comment on column regions.retired_at is 'It is gone for good: its silence raises no alarm. Events of its that turn up are still applied.';
comment on column regions.accepted_until is 'Stamps up to here are taken from it, however far ahead.';
