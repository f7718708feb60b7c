-- What the columns of the views of views.sql are, where it does not say so beside them; with this
-- every column that a client shows has its meaning.

COMMENT ON COLUMN accounting.open_before IS 'impressions open after the night before';
COMMENT ON COLUMN accounting.landed IS 'impressions that the night consumed';
COMMENT ON COLUMN accounting.outcomes IS 'impressions that it closed';
COMMENT ON COLUMN accounting.open_after IS 'impressions still open';
COMMENT ON COLUMN accounting.rejected IS 'impressions that it refused';
COMMENT ON COLUMN accounting.difference IS '0 where nothing is lost';
COMMENT ON COLUMN accounting.manifest IS 'number of the night''s manifest';
COMMENT ON COLUMN accounting.run_date IS 'the night';
COMMENT ON COLUMN accounting.kind IS 'bootstrap, night, replay or rebuild';

COMMENT ON COLUMN average_weight.run_date IS 'the night that drew';
COMMENT ON COLUMN average_weight.surface IS 'where: home, related, ...';
COMMENT ON COLUMN average_weight.arm IS 'arm of the experiment, '''' if none';
COMMENT ON COLUMN average_weight.clusters IS 'interests with such a reward';
COMMENT ON COLUMN average_weight.share_of_clusters IS 'of the night''s interests on that surface and arm';
COMMENT ON COLUMN average_weight.mean_reward IS 'their mean reward';
COMMENT ON COLUMN average_weight.draws IS 'draws of them';
COMMENT ON COLUMN average_weight.share_of_draws IS 'of the night''s draws there';

COMMENT ON COLUMN catalogue.name IS 'as a statement names it';
COMMENT ON COLUMN catalogue.kind IS 'table, view or macro';
COMMENT ON COLUMN catalogue.comment IS 'what it is';

COMMENT ON COLUMN cluster_history.user_id IS 'whose, or for whom';
COMMENT ON COLUMN cluster_history.surface IS 'where: home, related, ...';
COMMENT ON COLUMN cluster_history.cluster_id IS 'the interest';
COMMENT ON COLUMN cluster_history.title IS 'of the item that stands for the interest';
COMMENT ON COLUMN cluster_history.lineage IS 'born, continued, merged or split, that night';
COMMENT ON COLUMN cluster_history.from_cluster_ids IS 'the clusters of the night before that it came from';
COMMENT ON COLUMN cluster_history.n_items IS 'items in it';
COMMENT ON COLUMN cluster_history.arm IS 'arm of the experiment, '''' if none';
COMMENT ON COLUMN cluster_history.importance_share IS 'of the user''s interests on the surface, that night';
COMMENT ON COLUMN cluster_history.reward IS 'shrunk value per impression';
COMMENT ON COLUMN cluster_history.low IS '95 % interval of the reward';
COMMENT ON COLUMN cluster_history.high IS '95 % interval of the reward';
COMMENT ON COLUMN cluster_history.raw_rate IS 'value per impression; null without a record';
COMMENT ON COLUMN cluster_history.prior_source IS 'what the reward leans on: observed, user average or global average';
COMMENT ON COLUMN cluster_history.weight IS 'weight of its impressions, aged to the cut-off';
COMMENT ON COLUMN cluster_history.propensity IS 'probability that the draw has the interest; null where it was not drawn';
COMMENT ON COLUMN cluster_history.query_id IS 'what retrieval is asked with';
COMMENT ON COLUMN cluster_history.run_date IS 'the night';
COMMENT ON COLUMN cluster_history.draws IS 'its closed draws, aged to the cut-off';

COMMENT ON COLUMN cluster_rewards_now.user_id IS 'whose, or for whom';
COMMENT ON COLUMN cluster_rewards_now.surface IS 'where: home, related, ...';
COMMENT ON COLUMN cluster_rewards_now.cluster_id IS 'the interest';
COMMENT ON COLUMN cluster_rewards_now.arm IS 'arm of the experiment, '''' if none';
COMMENT ON COLUMN cluster_rewards_now.reward IS 'shrunk value per impression';
COMMENT ON COLUMN cluster_rewards_now.low IS '95 % interval of the reward';
COMMENT ON COLUMN cluster_rewards_now.high IS '95 % interval of the reward';
COMMENT ON COLUMN cluster_rewards_now.raw_rate IS 'value per impression; null without a record';
COMMENT ON COLUMN cluster_rewards_now.prior_source IS 'what the reward leans on: observed, user average or global average';
COMMENT ON COLUMN cluster_rewards_now.prior_mean IS 'what the rate shrinks to, in value units';
COMMENT ON COLUMN cluster_rewards_now.prior_strength IS 'impressions that the prior is worth';
COMMENT ON COLUMN cluster_rewards_now.weight IS 'weight of its impressions, aged to the cut-off';
COMMENT ON COLUMN cluster_rewards_now.effective_n IS 'impressions that the weights are worth (Kish)';
COMMENT ON COLUMN cluster_rewards_now.last_chance IS 'last day of an impression, or of a closed draw for a user who came; null: none on record; open_chances has the draws since';
COMMENT ON COLUMN cluster_rewards_now.reward_per_draw IS 'shrunk impressions per draw, times the reward';
COMMENT ON COLUMN cluster_rewards_now.actions IS 'positive engagements in it';
COMMENT ON COLUMN cluster_rewards_now.importance IS 'time-decayed size';
COMMENT ON COLUMN cluster_rewards_now.slot IS 'place among the user''s draws, from 0';
COMMENT ON COLUMN cluster_rewards_now.selection_weight IS 'weight that it was drawn by; null where it was not drawn';
COMMENT ON COLUMN cluster_rewards_now.n_items IS 'items in it';
COMMENT ON COLUMN cluster_rewards_now.lineage IS 'born, continued, merged or split, that night';
COMMENT ON COLUMN cluster_rewards_now.from_cluster_ids IS 'the clusters of the night before that it came from';
COMMENT ON COLUMN cluster_rewards_now.first_at IS 'first engagement in it';
COMMENT ON COLUMN cluster_rewards_now.last_at IS 'latest engagement in it';
COMMENT ON COLUMN cluster_rewards_now.query_type IS 'what query_id is: item, ...';
COMMENT ON COLUMN cluster_rewards_now.query_id IS 'what retrieval is asked with';
COMMENT ON COLUMN cluster_rewards_now.posterior_a IS 'Beta posterior of y, for Thompson sampling';
COMMENT ON COLUMN cluster_rewards_now.posterior_b IS 'Beta posterior of y';
COMMENT ON COLUMN cluster_rewards_now.draws IS 'its closed draws, aged to the cut-off';

COMMENT ON COLUMN draw_bins.run_date IS 'the night';
COMMENT ON COLUMN draw_bins.surface IS 'where: home, related, ...';
COMMENT ON COLUMN draw_bins.arm IS 'arm of the experiment, '''' if none';
COMMENT ON COLUMN draw_bins.policy IS 'policy name and version';
COMMENT ON COLUMN draw_bins.propensity_from IS 'lower end of the tenth';
COMMENT ON COLUMN draw_bins.draws IS 'draws in it';
COMMENT ON COLUMN draw_bins.mean_propensity IS 'mean propensity of the draws';
COMMENT ON COLUMN draw_bins.stand_for IS 'sum of 1 / propensity: interests that they stand for';
COMMENT ON COLUMN draw_bins.drawn_share IS 'draws over that: what share was drawn';

COMMENT ON COLUMN draw_check.run_date IS 'the night';
COMMENT ON COLUMN draw_check.surface IS 'where: home, related, ...';
COMMENT ON COLUMN draw_check.arm IS 'arm of the experiment, '''' if none';
COMMENT ON COLUMN draw_check.policy IS 'policy name and version';
COMMENT ON COLUMN draw_check.prior_source IS 'what the reward leans on: observed, user average or global average';
COMMENT ON COLUMN draw_check.mean_propensity IS 'mean propensity of the draws';
COMMENT ON COLUMN draw_check.clusters IS 'interests of users for whom the night drew';
COMMENT ON COLUMN draw_check.draws IS 'interests of these that were drawn';
COMMENT ON COLUMN draw_check.least_propensity IS 'the smallest propensity of a draw';

COMMENT ON COLUMN draws.run_date IS 'the night';
COMMENT ON COLUMN draws.serve_date IS 'the day it is for';
COMMENT ON COLUMN draws.user_id IS 'whose, or for whom';
COMMENT ON COLUMN draws.surface IS 'where: home, related, ...';
COMMENT ON COLUMN draws.slot IS 'place among the user''s draws, from 0';
COMMENT ON COLUMN draws.draw_id IS 'the draw, as the serving system echoes it';
COMMENT ON COLUMN draws.cluster_id IS 'the interest';
COMMENT ON COLUMN draws.title IS 'of the item that stands for the interest';
COMMENT ON COLUMN draws.policy IS 'policy name and version';
COMMENT ON COLUMN draws.arm IS 'arm of the experiment, '''' if none';
COMMENT ON COLUMN draws.set_probability IS 'probability of the user''s whole set';
COMMENT ON COLUMN draws.query_type IS 'what query_id is: item, ...';
COMMENT ON COLUMN draws.query_id IS 'what retrieval is asked with';
COMMENT ON COLUMN draws.weight IS 'selection weight, floor and calibration not yet in it';
COMMENT ON COLUMN draws.propensity IS 'inclusion probability of the interest';
COMMENT ON COLUMN draws.topic_ids IS 'topics that retrieval is held to';

COMMENT ON COLUMN exposures_accounted.table_name IS 'the table of the log';
COMMENT ON COLUMN exposures_accounted.landed IS 'rows that imports landed';
COMMENT ON COLUMN exposures_accounted.counted IS 'rows that are where they belong';
COMMENT ON COLUMN exposures_accounted.rejected IS 'rows that nights refused';
COMMENT ON COLUMN exposures_accounted.duplicates IS 'rows that came again';
COMMENT ON COLUMN exposures_accounted.difference IS '0 where nothing is lost';

COMMENT ON COLUMN importance_totals.user_id IS 'whose';
COMMENT ON COLUMN importance_totals.surface IS 'where: home, related, ...';
COMMENT ON COLUMN importance_totals.importance IS 'their sum';

COMMENT ON COLUMN never_had_a_chance.user_id IS 'whose, or for whom';
COMMENT ON COLUMN never_had_a_chance.surface IS 'where: home, related, ...';
COMMENT ON COLUMN never_had_a_chance.cluster_id IS 'the interest';
COMMENT ON COLUMN never_had_a_chance.title IS 'of the item that stands for the interest';
COMMENT ON COLUMN never_had_a_chance.reward IS 'shrunk value per impression';
COMMENT ON COLUMN never_had_a_chance.prior_source IS 'what the reward leans on: observed, user average or global average';
COMMENT ON COLUMN never_had_a_chance.importance IS 'time-decayed size';
COMMENT ON COLUMN never_had_a_chance.importance_share IS 'of the user''s interests on the surface, that night';
COMMENT ON COLUMN never_had_a_chance.actions IS 'positive engagements in it';
COMMENT ON COLUMN never_had_a_chance.n_items IS 'items in it';
COMMENT ON COLUMN never_had_a_chance.first_at IS 'first engagement in it';
COMMENT ON COLUMN never_had_a_chance.last_at IS 'latest engagement in it';
COMMENT ON COLUMN never_had_a_chance.arm IS 'arm of the experiment, '''' if none';

COMMENT ON COLUMN open_chances.user_id IS 'whose, or for whom';
COMMENT ON COLUMN open_chances.surface IS 'where: home, related, ...';
COMMENT ON COLUMN open_chances.cluster_id IS 'the interest that was drawn';

COMMENT ON COLUMN outcomes_named.run_date IS 'the night that closed it';
COMMENT ON COLUMN outcomes_named.user_id IS 'to whom';
COMMENT ON COLUMN outcomes_named.surface IS 'where: home, related, ...';
COMMENT ON COLUMN outcomes_named.position IS 'place in the feed, from 0';
COMMENT ON COLUMN outcomes_named.impression_id IS 'the impression';
COMMENT ON COLUMN outcomes_named.item_id IS 'what was shown';
COMMENT ON COLUMN outcomes_named.item_title IS 'its title';
COMMENT ON COLUMN outcomes_named.value IS 'weighted sum of its actions, clipped';
COMMENT ON COLUMN outcomes_named.actions IS 'what the user did, by name';
COMMENT ON COLUMN outcomes_named.attribution IS 'logged, inferred or none';
COMMENT ON COLUMN outcomes_named.draw_id IS 'the draw that is credited, 0 if none';
COMMENT ON COLUMN outcomes_named.query_type IS 'what query_id is: item, ...';
COMMENT ON COLUMN outcomes_named.query_id IS 'the query that brought it';
COMMENT ON COLUMN outcomes_named.query_title IS 'title of that query''s item';
COMMENT ON COLUMN outcomes_named.cluster_id IS 'the interest it came from, as of then';
COMMENT ON COLUMN outcomes_named.credit IS 'share of the impression; sums to 1 over its rows';
COMMENT ON COLUMN outcomes_named.examination IS 'probability that the user looked';
COMMENT ON COLUMN outcomes_named.propensity IS 'of the draw, where known';
COMMENT ON COLUMN outcomes_named.policy IS 'policy name and version';
COMMENT ON COLUMN outcomes_named.arm IS 'arm of the experiment, '''' if none';

COMMENT ON COLUMN promised.user_id IS 'for whom';
COMMENT ON COLUMN promised.surface IS 'where: home, related, ...';
COMMENT ON COLUMN promised.arm IS 'arm of the experiment, '''' if none';
COMMENT ON COLUMN promised.draw_id IS 'the draw';

COMMENT ON COLUMN rewards_now.user_id IS 'whose, or for whom';
COMMENT ON COLUMN rewards_now.surface IS 'where: home, related, ...';
COMMENT ON COLUMN rewards_now.query_type IS 'what query_id is: item, ...';
COMMENT ON COLUMN rewards_now.query_id IS 'the query';
COMMENT ON COLUMN rewards_now.draw_weight IS 'closed draws, aged to the cut-off';
COMMENT ON COLUMN rewards_now.last_at IS 'latest impression here';

COMMENT ON COLUMN spacing_arms.run_date IS 'the night';
COMMENT ON COLUMN spacing_arms.surface IS 'where: home, related, ...';
COMMENT ON COLUMN spacing_arms.spacing_class IS 'the class, by its name in spacing.yaml';
COMMENT ON COLUMN spacing_arms.arm IS 'arm of the experiment, '''' if none';
COMMENT ON COLUMN spacing_arms.feeds IS 'users with a feed';
COMMENT ON COLUMN spacing_arms.places IS 'places of these feeds';
COMMENT ON COLUMN spacing_arms.penalty_per_place IS 'mean penalty of the class';
COMMENT ON COLUMN spacing_arms.relevance IS 'mean relevance of the items placed';
COMMENT ON COLUMN spacing_arms.impressions IS 'closed impressions of these places';

COMMENT ON COLUMN spacing_by_night.run_date IS 'the night';
COMMENT ON COLUMN spacing_by_night.spacing_class IS 'the class, by its name in spacing.yaml';
COMMENT ON COLUMN spacing_by_night.exposure_without IS 'exposure as it would be without any class';
COMMENT ON COLUMN spacing_by_night.neighbours_without IS 'neighbours as they would be without any class';
COMMENT ON COLUMN spacing_by_night.penalty_per_place IS 'mean penalty of the class';
COMMENT ON COLUMN spacing_by_night.places IS 'places of the night''s feeds';
COMMENT ON COLUMN spacing_by_night.trailing_rate IS 'label_rate, mean over up to seven nights before';
