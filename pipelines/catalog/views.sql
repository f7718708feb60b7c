-- Views and macros for analysts. They stand on one view per stored table (upper case, columns and
-- comments from the schemas) and on the small tables settings, actions, nights, night_counts,
-- night_seconds, night_inputs, night_retrieval, prior, landings, landed_files and landing_sources.
-- Outer joins are on plain equalities: DuckDB 1.5 compares every row with every row where the left
-- side has a condition of its own (26 s instead of 1 s for cluster_history of a million rows).

CREATE OR REPLACE MACRO id_of(kind_of_id, source_id) AS (
    SELECT id FROM KEYS WHERE kind = kind_of_id AND original = source_id);
COMMENT ON MACRO id_of IS 'id_of(''user'', ''ann''): the id of an imported user, item, topic, ... that has a name in its source';


-- What every query earned, aged to the cut-off.

CREATE OR REPLACE VIEW rewards_now AS
WITH aged AS (
    SELECT r.*, s.cutoff, s.value_low, s.value_high, s.action_names,
           pow(2.0, (epoch_us(r.as_of) - epoch_us(s.cutoff)) / 86400e6 / s.half_life_days) AS age
    FROM REWARDS AS r CROSS JOIN settings AS s)
SELECT a.user_id, a.surface, a.query_type, a.query_id, i.title,
       CASE WHEN a.w > 0 THEN a.value_low + (a.value_high - a.value_low) * a.wy / a.w END AS rate,
       a.w * a.age AS weight,
       a.wy * a.age AS weighted_y,
       CASE WHEN a.w2 > 0 THEN a.w * a.w / a.w2 END AS effective_n,
       a.impressions,
       map(a.action_names[1 : len(a.action_counts)], a.action_counts) AS actions,
       a.draws, a.empty_draws,
       a.draw_w * a.age AS draw_weight,
       CASE WHEN a.draw_w > 0 THEN a.drawn_w / a.draw_w END AS impressions_per_draw,
       (epoch_us(a.cutoff) - epoch_us(a.as_of)) / 86400e6 AS age_days,
       a.last_at
FROM aged AS a LEFT JOIN ITEMS AS i ON i.item_id = CASE WHEN a.query_type = 'item' THEN a.query_id END;
COMMENT ON VIEW rewards_now IS 'REWARDS with sums aged to the cut-off: what each query earned, and how much that still weighs';
COMMENT ON COLUMN rewards_now.title IS 'of the item that the query is';
COMMENT ON COLUMN rewards_now.rate IS 'raw value per impression, from value_low to value_high; null without a record';
COMMENT ON COLUMN rewards_now.weight IS 'sum of examination * credit, halved every half_life_days';
COMMENT ON COLUMN rewards_now.weighted_y IS 'the same, times y = (value - value_low) / (value_high - value_low)';
COMMENT ON COLUMN rewards_now.effective_n IS 'impressions that the weights are worth (Kish); ageing leaves it as it is';
COMMENT ON COLUMN rewards_now.impressions IS 'outcomes ever counted here, not aged';
COMMENT ON COLUMN rewards_now.actions IS 'what the user did, by name, not aged';
COMMENT ON COLUMN rewards_now.draws IS 'draws ever closed here, not aged';
COMMENT ON COLUMN rewards_now.empty_draws IS 'of these, draws that brought no impression';
COMMENT ON COLUMN rewards_now.impressions_per_draw IS 'weight of impressions per closed draw, both aged; null in logs without draws';
COMMENT ON COLUMN rewards_now.age_days IS 'days from the latest event to the cut-off';


-- Every user's interests tonight, with what was drawn.

CREATE OR REPLACE VIEW importance_totals AS
SELECT user_id, surface, sum(importance) AS importance FROM CLUSTER_REWARDS GROUP BY ALL;
COMMENT ON VIEW importance_totals IS 'importance of all interests of a user on a surface, tonight: what the share of one is of';

CREATE OR REPLACE VIEW cluster_rewards_now AS
SELECT c.user_id, c.surface, c.cluster_id, i.title, c.arm, c.reward, c.low, c.high, c.raw_rate,
       c.prior_source, c.prior_mean, c.prior_strength, c.weight, c.effective_n, c.draws,
       c.reward_per_draw, c.last_chance, c.actions, c.importance,
       c.importance / t.importance AS importance_share,
       q.draw_id IS NOT NULL AS drawn, q.slot, q.propensity, q.weight AS selection_weight,
       p.n_items, p.lineage, p.from_cluster_ids, p.first_at, p.last_at,
       c.query_type, c.query_id, c.posterior_a, c.posterior_b
FROM CLUSTER_REWARDS AS c
JOIN importance_totals AS t ON t.user_id = c.user_id AND t.surface = c.surface
LEFT JOIN PROFILES AS p ON p.user_id = c.user_id AND p.cluster_id = c.cluster_id
LEFT JOIN ITEMS AS i ON i.item_id = CASE WHEN c.query_type = 'item' THEN c.query_id END
LEFT JOIN (SELECT * FROM QUERIES WHERE run_date = (SELECT run_date FROM settings)) AS q
       ON q.user_id = c.user_id AND q.surface = c.surface AND q.cluster_id = c.cluster_id;
COMMENT ON VIEW cluster_rewards_now IS 'every interest tonight: its reward, what that leans on, and whether it was drawn';
COMMENT ON COLUMN cluster_rewards_now.title IS 'of the medoid, the item that a draw asks with';
COMMENT ON COLUMN cluster_rewards_now.importance_share IS 'of the user''s interests on this surface';
COMMENT ON COLUMN cluster_rewards_now.drawn IS 'whether tonight''s QUERIES have it';
COMMENT ON COLUMN cluster_rewards_now.propensity IS 'inclusion probability, known for drawn interests';


-- The history of interests.

CREATE OR REPLACE VIEW cluster_history AS
WITH closed AS (
    SELECT run_date, user_id, surface, cluster_id,
           count(DISTINCT impression_id) AS impressions,
           sum(examination * credit * value) / nullif(sum(examination * credit), 0) AS rate
    FROM OUTCOMES WHERE cluster_id IS NOT NULL GROUP BY ALL)
SELECT c.run_date, c.user_id, c.surface, c.cluster_id, i.title,
       p.lineage, p.from_cluster_ids, p.n_items, c.arm,
       c.importance / sum(c.importance) OVER (PARTITION BY c.run_date, c.user_id, c.surface)
           AS importance_share,
       c.reward, c.low, c.high, c.raw_rate, c.prior_source, c.weight, c.draws,
       q.draw_id IS NOT NULL AS drawn, q.propensity,
       coalesce(o.impressions, 0) AS impressions, o.rate, c.query_id
FROM CLUSTER_REWARDS_ALL AS c
LEFT JOIN PROFILES_ALL AS p USING (run_date, user_id, cluster_id)
LEFT JOIN ITEMS AS i ON i.item_id = CASE WHEN c.query_type = 'item' THEN c.query_id END
LEFT JOIN QUERIES AS q USING (run_date, user_id, surface, cluster_id)
LEFT JOIN closed AS o USING (run_date, user_id, surface, cluster_id);
COMMENT ON VIEW cluster_history IS 'every interest on every night: its reward then, whether it was drawn, and what closed that night; an id is one line of descent';
COMMENT ON COLUMN cluster_history.impressions IS 'impressions that closed that night and are attributed to it';
COMMENT ON COLUMN cluster_history.rate IS 'their mean value';
COMMENT ON COLUMN cluster_history.drawn IS 'whether that night''s QUERIES, for the day after, have it';

-- An ancestor's nights count up to the night on which it became something else; `until` falls with
-- every step back, so the recursion ends.
CREATE OR REPLACE MACRO reward_history(who) AS TABLE
WITH RECURSIVE
descent AS (
    SELECT cluster_id, ancestor, min(run_date) AS since
    FROM (SELECT run_date, cluster_id, unnest(from_cluster_ids) AS ancestor
          FROM PROFILES_ALL WHERE user_id = who)
    WHERE ancestor <> cluster_id GROUP BY ALL),
line AS (
    SELECT cluster_id AS interest, cluster_id, DATE '9999-12-31' AS until, 0 AS steps_back
    FROM PROFILES WHERE user_id = who
    UNION
    SELECT l.interest, d.ancestor, d.since, l.steps_back + 1
    FROM line AS l JOIN descent AS d ON d.cluster_id = l.cluster_id AND d.since < l.until),
lines AS (
    SELECT interest, cluster_id, max(until) AS until, min(steps_back) AS steps_back
    FROM line GROUP BY ALL)
SELECT l.interest, l.steps_back, h.*
FROM lines AS l JOIN cluster_history AS h
  ON h.user_id = who AND h.cluster_id = l.cluster_id AND h.run_date < l.until
ORDER BY l.interest, h.surface, h.run_date, l.steps_back, h.cluster_id;
COMMENT ON MACRO TABLE reward_history IS 'reward_history(user_id): cluster_history of each of the user''s interests of tonight, through the clusters that it came from; steps_back is 0 for the interest itself';


-- Who was never asked.

-- What is drawn and has not closed is a chance too, of the interest that it was drawn for; closed,
-- it goes to the record of its item, and so to the interest that holds the item tonight.
CREATE OR REPLACE VIEW open_chances AS
WITH open_draws AS (
    SELECT q.user_id, q.surface, q.cluster_id, q.serve_date AS day
    FROM QUERIES AS q WHERE q.run_date >= (SELECT first_open FROM settings)
    UNION ALL
    SELECT s.user_id, s.surface, s.cluster_id, (s."at" AT TIME ZONE 'UTC')::DATE
    FROM SERVED_DRAWS AS s
    WHERE (s."at" AT TIME ZONE 'UTC')::DATE > (SELECT first_open FROM settings))
SELECT user_id, surface, cluster_id, max(day) AS day FROM open_draws GROUP BY ALL;
COMMENT ON VIEW open_chances IS 'interests with a draw that has not closed, tonight''s among them, under the cluster ids that were drawn';
COMMENT ON COLUMN open_chances.day IS 'the last day that such a draw is for';

CREATE OR REPLACE VIEW never_had_a_chance AS
WITH unasked AS (
    SELECT c.* FROM CLUSTER_REWARDS AS c
    ANTI JOIN open_chances AS o USING (user_id, surface, cluster_id)
    WHERE c.weight = 0 AND c.draws = 0 AND c.last_chance IS NULL)
SELECT c.user_id, c.surface, c.cluster_id, i.title, p.first_at, p.last_at, c.reward, c.prior_source,
       c.importance, c.importance / t.importance AS importance_share, c.actions, p.n_items, c.arm
FROM unasked AS c
JOIN importance_totals AS t ON t.user_id = c.user_id AND t.surface = c.surface
LEFT JOIN PROFILES AS p ON p.user_id = c.user_id AND p.cluster_id = c.cluster_id
LEFT JOIN ITEMS AS i ON i.item_id = CASE WHEN c.query_type = 'item' THEN c.query_id END;
COMMENT ON VIEW never_had_a_chance IS 'interests of which nothing was shown on the surface, nor drawn for a day on which the user came, as far back as records reach; a draw that has not closed counts as a chance';


-- What was thought of the interests that were drawn.

CREATE OR REPLACE VIEW promised AS
WITH unsaid AS (  -- by releases that did not write it down, and per request
    SELECT run_date, user_id, surface, cluster_id, arm, draw_id, false AS per_request
    FROM QUERIES WHERE reward IS NULL
    UNION ALL
    SELECT try_cast(split_part(state_version, '/', 1) AS DATE), user_id, surface, cluster_id, arm,
           draw_id, true
    FROM SERVED_DRAWS)
SELECT run_date, user_id, surface, arm, draw_id, false AS per_request, reward, prior_source
FROM QUERIES WHERE reward IS NOT NULL
UNION ALL
SELECT u.run_date, u.user_id, u.surface, u.arm, u.draw_id, u.per_request, c.reward, c.prior_source
FROM unsaid AS u JOIN CLUSTER_REWARDS_ALL AS c USING (run_date, user_id, surface, cluster_id);
COMMENT ON VIEW promised IS 'every draw with the reward of its interest when it was drawn; where the draw does not hold it, as the CLUSTER_REWARDS of its night do';
COMMENT ON COLUMN promised.run_date IS 'the night whose rewards it was drawn from';
COMMENT ON COLUMN promised.per_request IS 'drawn by the serving system, not by the night';
COMMENT ON COLUMN promised.reward IS 'value per impression that was expected';
COMMENT ON COLUMN promised.prior_source IS 'what that leaned on: observed, evidence, user average or global average';


-- What the average weight did.

CREATE OR REPLACE VIEW average_weight AS
WITH there AS (
    SELECT run_date, surface, arm, prior_source, count(*) AS clusters, avg(reward) AS mean_reward
    FROM CLUSTER_REWARDS_ALL GROUP BY ALL),
brought AS (  -- a draw has one row of OUTCOMES an impression
    SELECT draw_id, count(*) AS impressions, sum(examination * credit) AS weight,
           sum(examination * credit * value) AS worth
    FROM OUTCOMES WHERE draw_id <> 0 GROUP BY ALL),
made AS (
    SELECT q.run_date, q.surface, q.arm, q.prior_source, count(*) AS draws,
           sum(o.impressions) AS impressions, sum(o.worth) AS worth, sum(o.weight) AS weight
    FROM (SELECT * FROM promised WHERE NOT per_request) AS q
    LEFT JOIN brought AS o ON o.draw_id = q.draw_id GROUP BY ALL)
SELECT run_date, surface, arm, prior_source, coalesce(t.clusters, 0) AS clusters,
       coalesce(t.clusters, 0) / sum(t.clusters) OVER night AS share_of_clusters, t.mean_reward,
       coalesce(m.draws, 0) AS draws,
       coalesce(m.draws, 0) / nullif(sum(m.draws) OVER night, 0) AS share_of_draws,
       coalesce(m.impressions, 0)::BIGINT AS impressions, m.worth / nullif(m.weight, 0) AS rate
FROM there AS t FULL JOIN made AS m USING (run_date, surface, arm, prior_source)
WINDOW night AS (PARTITION BY run_date, surface, arm);
COMMENT ON VIEW average_weight IS 'by what a reward leans on (its own record, the user''s average, the global one): how many interests, their mean reward, their share of the draws, and what those draws brought later';
COMMENT ON COLUMN average_weight.prior_source IS 'observed, evidence, user average or global average: of draws when they were made, of interests as the night, or its replay, computed them';
COMMENT ON COLUMN average_weight.impressions IS 'closed impressions that the night''s draws brought so far';
COMMENT ON COLUMN average_weight.rate IS 'their mean value: were the interests on the average worth their draws?';


-- Draws against their probabilities. Every drawn interest stands for 1 / propensity interests, so in
-- any group chosen without looking at the draw the sum of these estimates the group's size without
-- bias (Horvitz and Thompson 1952), if the propensities written down are those that were drawn with.

CREATE OR REPLACE MACRO quarter_of(reward, cuts) AS
    1 + (reward > cuts[1])::INTEGER + (reward > cuts[2])::INTEGER + (reward > cuts[3])::INTEGER;
COMMENT ON MACRO quarter_of IS 'quarter_of(reward, quartiles): 1 to 4; equal rewards lie in one quarter, so a quarter may be empty';

CREATE OR REPLACE VIEW draw_check AS
WITH served AS (
    SELECT run_date, user_id, surface, any_value(policy) AS policy FROM QUERIES GROUP BY ALL),
quartiles AS (
    SELECT run_date, surface, arm, quantile_disc(reward, [0.25, 0.5, 0.75]) AS cuts
    FROM CLUSTER_REWARDS_ALL GROUP BY ALL),
interests AS (
    SELECT c.run_date, c.surface, c.arm, s.policy, c.prior_source, q.propensity,
           quarter_of(c.reward, t.cuts) AS reward_quarter
    FROM CLUSTER_REWARDS_ALL AS c
    JOIN served AS s USING (run_date, user_id, surface)
    JOIN quartiles AS t ON t.run_date = c.run_date AND t.surface = c.surface AND t.arm = c.arm
    LEFT JOIN QUERIES AS q USING (run_date, user_id, surface, cluster_id)),
groups AS (
    SELECT run_date, surface, arm, policy, prior_source, reward_quarter,
           count(*) AS clusters, count(propensity) AS draws,
           avg(propensity) AS mean_propensity, min(propensity) AS least_propensity,
           coalesce(sum(1 / propensity), 0) AS stand_for,
           coalesce(sqrt(sum((1 - propensity) / (propensity * propensity))), 0) AS standard_error
    FROM interests GROUP BY ALL)
SELECT *, (stand_for - clusters) / nullif(standard_error, 0) AS z FROM groups;
COMMENT ON VIEW draw_check IS 'do draws come as often as their propensities say: by night, policy and kind of interest, the interests there are against those that the draws stand for';
COMMENT ON COLUMN draw_check.reward_quarter IS '1: up to the first quartile of the night''s rewards there; equal rewards lie together';
COMMENT ON COLUMN draw_check.stand_for IS 'sum of 1 / propensity over the drawn: its expectation is clusters';
COMMENT ON COLUMN draw_check.standard_error IS 'of stand_for, as if draws were independent, which overstates it';
COMMENT ON COLUMN draw_check.z IS 'within some 3 of 0; null where every propensity is 1 or nothing was drawn';

CREATE OR REPLACE VIEW draw_bins AS
SELECT run_date, surface, arm, policy, least(floor(propensity * 10) / 10, 0.9) AS propensity_from,
       count(*) AS draws, avg(propensity) AS mean_propensity,
       sum(1 / propensity) AS stand_for, count(*) / sum(1 / propensity) AS drawn_share
FROM QUERIES GROUP BY ALL;
COMMENT ON VIEW draw_bins IS 'draws by tenths of their propensity, and how many interests they stand for';


-- Draws and outcomes with names.

CREATE OR REPLACE VIEW draws AS
WITH brought AS (  -- by user too, so that a question about one reads that one's rows
    SELECT user_id, draw_id, count(*) AS impressions,
           sum(examination * credit * value) / nullif(sum(examination * credit), 0) AS rate
    FROM OUTCOMES WHERE draw_id <> 0 GROUP BY ALL)
SELECT q.run_date, q.serve_date, q.user_id, q.surface, q.slot, q.draw_id, q.cluster_id, i.title,
       q.policy, q.arm, q.weight, q.propensity, q.set_probability,
       c.state, coalesce(o.impressions, 0) AS impressions, o.rate,
       list_transform(q.conditions, lambda x: x.topic_id) AS topic_ids, q.query_type, q.query_id
FROM QUERIES AS q
LEFT JOIN ITEMS AS i ON i.item_id = CASE WHEN q.query_type = 'item' THEN q.query_id END
LEFT JOIN CLOSED_DRAWS AS c ON c.user_id = q.user_id AND c.draw_id = q.draw_id
LEFT JOIN brought AS o ON o.user_id = q.user_id AND o.draw_id = q.draw_id;
COMMENT ON VIEW draws IS 'every draw of QUERIES, and what it brought so far';
COMMENT ON COLUMN draws.state IS 'how it closed: brought, empty or unserved; null while it is open';
COMMENT ON COLUMN draws.impressions IS 'closed impressions that it is credited with';
COMMENT ON COLUMN draws.rate IS 'their mean value';

CREATE OR REPLACE VIEW outcomes_named AS
SELECT o.run_date, o.at, o.user_id, o.surface, o.position, o.impression_id, o.item_id,
       i.title AS item_title, o.value,
       list_filter(s.action_names, lambda name, place: (o.actions >> (place - 1)) & 1 = 1) AS actions,
       o.attribution, o.draw_id, o.query_type, o.query_id, q.title AS query_title, o.cluster_id,
       o.credit, o.examination, o.propensity, o.policy, o.arm
FROM OUTCOMES AS o CROSS JOIN settings AS s
LEFT JOIN ITEMS AS i ON i.item_id = o.item_id
LEFT JOIN ITEMS AS q ON q.item_id = CASE WHEN o.query_type = 'item' THEN o.query_id END;
COMMENT ON VIEW outcomes_named IS 'OUTCOMES with titles, and the user''s actions by name';
COMMENT ON COLUMN outcomes_named.at IS 'when; a keyword of DuckDB, so write "at" or o.at';


-- The books. Every night: open before + landed = outcomes + open after + rejected + duplicates.

CREATE OR REPLACE VIEW accounting AS
WITH landed AS (
    SELECT run_date, sum(n)::BIGINT AS n FROM night_inputs
    WHERE table_name = 'IMPRESSIONS' GROUP BY ALL),
closed AS (SELECT run_date, count(DISTINCT impression_id) AS n FROM OUTCOMES GROUP BY ALL),
waiting AS (SELECT run_date, count(*) AS n FROM OPEN_ALL GROUP BY ALL),
refused AS (
    SELECT run_date, count(*) AS n FROM REJECTED
    WHERE source = 'IMPRESSIONS' AND run_date IS NOT NULL GROUP BY ALL),
counted AS (
    SELECT run_date, map(list(what), list(n)) AS n FROM night_counts
    WHERE step = 'impressions' GROUP BY ALL),
books AS (
    SELECT g.manifest, g.run_date, g.kind,
           coalesce(lag(w.n) OVER (ORDER BY g.manifest), 0) AS open_before,
           coalesce(l.n, 0) AS landed, coalesce(o.n, 0) AS outcomes, coalesce(w.n, 0) AS open_after,
           coalesce(r.n, 0) AS rejected, coalesce(c.n['duplicates'], 0) AS duplicates, c.n AS counts
    FROM nights AS g
    LEFT JOIN landed AS l USING (run_date) LEFT JOIN closed AS o USING (run_date)
    LEFT JOIN waiting AS w USING (run_date) LEFT JOIN refused AS r USING (run_date)
    LEFT JOIN counted AS c USING (run_date))
SELECT * EXCLUDE (counts),
       open_before + landed - outcomes - open_after - rejected - duplicates AS difference,
       [open_before, landed, outcomes, open_after, rejected] =
           [counts['open_before'], counts['landed'], counts['outcomes'], counts['open_after'],
            counts['rejected']] AS as_counted
FROM books;
COMMENT ON VIEW accounting IS 'impressions by night, counted in the tables themselves: difference = open_before + landed - outcomes - open_after - rejected - duplicates is 0';
COMMENT ON COLUMN accounting.duplicates IS 'as the night counted them; they are in no table';
COMMENT ON COLUMN accounting.as_counted IS 'whether the tables agree with the counts in the manifest';

CREATE OR REPLACE VIEW exposures_accounted AS
WITH landed AS (
    SELECT table_name, sum(n)::BIGINT AS n FROM landed_files
    WHERE table_name IN ('IMPRESSIONS', 'ENGAGEMENTS', 'EXPOSURES') GROUP BY ALL),
consumed AS (SELECT table_name, sum(n)::BIGINT AS n FROM night_inputs GROUP BY ALL),
refused AS (
    SELECT source AS table_name, count(*) AS n FROM REJECTED
    WHERE run_date IS NOT NULL GROUP BY ALL),
twice AS (
    SELECT upper(step) AS table_name, sum(n)::BIGINT AS n FROM night_counts
    WHERE what = 'duplicates' GROUP BY ALL),
kept AS (
    SELECT 'IMPRESSIONS' AS table_name, count(DISTINCT impression_id)
           + (SELECT count(*) FROM OPEN) AS n FROM OUTCOMES
    UNION ALL
    SELECT 'ENGAGEMENTS', coalesce(sum(n), 0)::BIGINT FROM night_counts
    WHERE step = 'engagements' AND what = 'admitted'
    UNION ALL
    SELECT 'EXPOSURES', count(DISTINCT (user_id, ordinal)) FROM EXPOSURES)
SELECT table_name, l.n AS landed, k.n AS counted, coalesce(r.n, 0) AS rejected,
       coalesce(t.n, 0) AS duplicates,
       CASE WHEN table_name = 'EXPOSURES' THEN 0 ELSE l.n - coalesce(c.n, 0) END AS waiting,
       landed - counted - rejected - duplicates - waiting AS difference
FROM landed AS l
LEFT JOIN kept AS k USING (table_name) LEFT JOIN consumed AS c USING (table_name)
LEFT JOIN refused AS r USING (table_name) LEFT JOIN twice AS t USING (table_name);
COMMENT ON VIEW exposures_accounted IS 'every landed row of the log: counted (in OUTCOMES or OPEN; admitted to HISTORY; earlier exposures), refused, a duplicate, or waiting for its night; the difference is 0';
COMMENT ON COLUMN exposures_accounted.waiting IS 'landed rows that no night has consumed yet';


-- What spacing classes do: by night as the nights counted it, and by arm from the feeds themselves.

CREATE OR REPLACE MACRO measured_margin(total, squares, measured, everyone) AS (
    CASE WHEN coalesce(measured = everyone, true) THEN 0.0
         WHEN measured > 1 THEN 1.96 * sqrt((1 - measured / everyone) / measured
             * greatest(squares - total * total / measured, 0) / (measured - 1)) END);
COMMENT ON MACRO measured_margin IS 'measured_margin(sum, sum of squares, n, N): half of the 95 % interval of the mean of N users from n of them, chosen by hash';

CREATE OR REPLACE VIEW spacing_by_night AS
WITH counted AS (
    SELECT run_date, substr(step, 9) AS spacing_class, map(list(what), list(n)) AS n
    FROM night_counts WHERE step LIKE 'spacing %' GROUP BY ALL),
known AS (
    SELECT c.run_date, spacing_class, n, m, drift_nights, nullif(n['candidates'], 0) AS candidates, nullif(n['placed'], 0) AS placed,
           nullif(coalesce(n['measured_placed'], n['placed']), 0) AS measured_placed,
           n['users'] AS users, n['measured_users'] AS measured_users,
           n['placed_labelled_before'] - coalesce(n['measured_labelled'], n['placed_labelled']) AS gap,
           n['adjacent_before'] - coalesce(n['measured_adjacent'], n['adjacent']) AS adjacent_gap
    FROM counted AS c
    JOIN (SELECT run_date, drift_nights, row_number() OVER (ORDER BY manifest) AS m FROM nights) AS g
    ON g.run_date = c.run_date),
rates AS (
    SELECT run_date, spacing_class, n['labelled'] / candidates AS label_rate,
           n['placed_labelled'] / placed + gap / measured_placed AS exposure_without,
           n['placed_labelled'] / placed AS exposure,
           measured_margin(gap, n['labelled_squares'], measured_users, users) / measured_placed
               * coalesce(measured_users, 1) AS exposure_margin,
           n['adjacent'] + adjacent_gap * placed / measured_placed AS neighbours_without,
           n['adjacent'] AS neighbours,
           n['positions_lost'] * coalesce(users / nullif(measured_users, 0), 1) AS positions_lost,
           measured_margin(n['positions_lost'], n['positions_lost_squares'], measured_users, users)
               * coalesce(users, 1) AS positions_lost_margin,
           n['decided'] AS decided, n['demotion_milli'] / 1000 / placed AS penalty_per_place,
           placed AS places, users, measured_users, m, drift_nights
    FROM known)
SELECT * EXCLUDE (m, drift_nights), avg(label_rate) OVER before AS trailing_rate,
       label_rate / nullif(avg(label_rate) OVER before, 0) - 1 AS drift
FROM rates
WINDOW before AS (PARTITION BY spacing_class ORDER BY m
                  RANGE BETWEEN drift_nights PRECEDING AND 1 PRECEDING);
COMMENT ON VIEW spacing_by_night IS 'what every spacing class did each night, against the same feeds without any class; these are built for measured_users of the users (spacing.measured_share), and scaled to all';
COMMENT ON COLUMN spacing_by_night.label_rate IS 'share of the candidates that are of the class';
COMMENT ON COLUMN spacing_by_night.exposure IS 'share of the places that hold a member';
COMMENT ON COLUMN spacing_by_night.exposure_without IS 'the same without any class: exposure and the difference among measured users';
COMMENT ON COLUMN spacing_by_night.exposure_margin IS 'half of the 95 % interval of exposure_without; 0 where all users were measured';
COMMENT ON COLUMN spacing_by_night.neighbours IS 'pairs of neighbours that are both of the class';
COMMENT ON COLUMN spacing_by_night.neighbours_without IS 'the same without any class, scaled from measured users';
COMMENT ON COLUMN spacing_by_night.positions_lost IS 'by its members together; one that fell off went to the end of the feed; scaled from measured users';
COMMENT ON COLUMN spacing_by_night.positions_lost_margin IS 'half of its 95 % interval; 0 where all users were measured';
COMMENT ON COLUMN spacing_by_night.decided IS 'places where another item would stand without the class';
COMMENT ON COLUMN spacing_by_night.users IS 'users whose feeds the night ranked';
COMMENT ON COLUMN spacing_by_night.measured_users IS 'users whose feeds were built without classes too; NULL on old nights, which built all';
COMMENT ON COLUMN spacing_by_night.trailing_rate IS 'mean of label_rate over those of the drift_nights nights before that had the class; drift_nights as that night was configured';
COMMENT ON COLUMN spacing_by_night.drift IS 'label_rate against trailing_rate, less 1';

CREATE OR REPLACE VIEW spacing_arms AS
WITH listed AS (
    SELECT f.run_date, f.user_id, f.surface, f.position, f.item_id, f.draw_id, f.relevance, q.arm,
           f.spacing_classes, f.decided_by, unnest(f.penalties) AS p
    FROM FEED AS f JOIN QUERIES AS q ON q.user_id = f.user_id AND q.draw_id = f.draw_id),
places AS (
    SELECT *, p.spacing_class AS spacing_class, p.penalty AS penalty,
           list_contains(spacing_classes, p.spacing_class) AS member,
           list_contains(decided_by, p.spacing_class) AS decided
    FROM listed),
pairs AS (
    SELECT *, member AND coalesce(lag(member) OVER (
               PARTITION BY run_date, user_id, surface, spacing_class ORDER BY position), false)
           AS neighbour
    FROM places),
shown AS (
    SELECT user_id, draw_id, item_id, count(DISTINCT impression_id) AS impressions,
           sum(examination * credit) AS weight, sum(examination * credit * value) AS worth
    FROM OUTCOMES WHERE draw_id <> 0 GROUP BY ALL)
SELECT x.run_date, x.surface, x.spacing_class, x.arm,
       count(DISTINCT x.user_id) AS feeds, count(*) AS places,
       avg(x.member::INTEGER) AS exposure, avg(x.neighbour::INTEGER) AS neighbours,
       avg(x.decided::INTEGER) AS decided, avg(x.penalty) AS penalty_per_place,
       avg(x.relevance) AS relevance, coalesce(sum(s.impressions), 0)::BIGINT AS impressions,
       sum(s.worth) / nullif(sum(s.weight), 0) AS rate,
       sum(s.worth) FILTER (x.member) / nullif(sum(s.weight) FILTER (x.member), 0) AS member_rate
FROM pairs AS x
LEFT JOIN shown AS s ON s.user_id = x.user_id AND s.draw_id = x.draw_id AND s.item_id = x.item_id
GROUP BY ALL;
COMMENT ON VIEW spacing_arms IS 'arms side by side, one row a night, surface, spacing class and arm: what the class did there, and what users did with those feeds';
COMMENT ON COLUMN spacing_arms.exposure IS 'share of the places that hold a member, whether the class works in that arm or not';
COMMENT ON COLUMN spacing_arms.neighbours IS 'share of the places whose item and the one before are both of the class';
COMMENT ON COLUMN spacing_arms.decided IS 'share of the places where another item would stand without the class';
COMMENT ON COLUMN spacing_arms.rate IS 'mean value of the closed impressions of these places so far';
COMMENT ON COLUMN spacing_arms.member_rate IS 'of those that hold a member';


CREATE OR REPLACE VIEW catalogue AS
SELECT view_name AS name, 'view' AS kind, comment FROM duckdb_views()
WHERE NOT internal AND database_name = current_database()
UNION ALL
SELECT table_name, 'table', comment FROM duckdb_tables()
WHERE NOT internal AND database_name = current_database() AND NOT temporary
UNION ALL
SELECT function_name, 'macro', comment FROM duckdb_functions()
WHERE NOT internal AND database_name = current_database() AND comment IS NOT NULL
ORDER BY kind DESC, name;
COMMENT ON VIEW catalogue IS 'the views, tables and macros, and what they say';
