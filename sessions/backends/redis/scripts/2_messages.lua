-- Messages that are stored.

-- tag, session id, 'before', 'after' or 'since', an id or a moment, limit or -1
function ops.history()
  local s = open(ARGV[3], ARGV[4])
  if not s then return { 'absent' } end
  local part, value, limit = ARGV[5], ARGV[6], ARGV[7]
  if part == 'since' then
    return { 'ok', call('ZRANGEBYLEX', s.order, '[' .. value, '+', 'LIMIT', 0, limit) }
  end
  local member = find(s, value)
  if not member then return { 'place' } end
  if part == 'after' then
    return { 'ok', call('ZRANGEBYLEX', s.order, '(' .. member, '+', 'LIMIT', 0, limit) }
  end
  return { 'ok', call('ZREVRANGEBYLEX', s.order, '(' .. member, '-', 'LIMIT', 0, limit) }
end

-- tag, session id, message id
function ops.get_message()
  return { find(keys_of(ARGV[3], ARGV[4]), ARGV[5]) }
end

-- tag, session id, message id, version, '1' and the content or '0', '1' and the payload or '0', what the pairs
-- do, pairs
function ops.update_message()
  local s = open(ARGV[3], ARGV[4])
  if not s then return { 'absent' } end
  local id = ARGV[5]
  local member, place = find(s, id)
  if not member then return { 'absent' } end
  if not has_version(s, ARGV[6]) then return { 'version' } end
  local content, payload, mode = ARGV[7], ARGV[8], ARGV[9]
  local old, old_payload = parts_of(body_of(member))
  local new, new_payload = { old[1], old[2] }, old_payload
  if sub(content, 1, 1) == '1' then new[2] = sub(content, 2) end
  if sub(payload, 1, 1) == '1' then new_payload = payload == '1' and '' or '\0' .. sub(payload, 2) end
  local is_changed = new[2] ~= old[2] or new_payload ~= old_payload
  local given, stored = {}, {}
  for i = 10, #ARGV, 2 do given[ARGV[i]] = ARGV[i + 1] end
  for i = 3, #old, 2 do
    local key, value = old[i], given[old[i]]
    stored[key] = true
    if value == nil and mode == 'replace' then
      is_changed = true
    else
      if value and canonical(value) ~= canonical(old[i + 1]) then is_changed = true end
      new[#new + 1] = key
      new[#new + 1] = value or old[i + 1]
    end
  end
  for i = 10, #ARGV, 2 do
    if not stored[ARGV[i]] then
      is_changed = true
      new[#new + 1] = ARGV[i]
      new[#new + 1] = ARGV[i + 1]
    end
  end
  if is_changed then
    call('ZADD', s.order, 0, place .. id .. '\0' .. cjson.encode(new) .. new_payload)
    call('ZREM', s.order, member)
    changed(s, next_moment(s.updated))
  end
  return { 'ok' }
end

-- tag, session id
function ops.pop()
  local s = open(ARGV[3], ARGV[4])
  if not s then return {} end
  local members = call('ZRANGE', s.order, -1, -1)
  if #members > 0 then
    remove(s, members)
    changed(s, next_moment(s.updated))
  end
  return members
end

-- tag, session id, message ids
function ops.delete_messages()
  local s = open(ARGV[3], ARGV[4])
  if not s then return 0 end
  local members = {}
  for i = 5, #ARGV do
    members[#members + 1] = find(s, ARGV[i])
  end
  if #members > 0 then
    remove(s, members)
    changed(s, next_moment(s.updated))
  end
  return #members
end

-- tag, session id, message id, '1' with that one
function ops.delete_from()
  local s = open(ARGV[3], ARGV[4])
  if not s then return { 'absent' } end
  local member = find(s, ARGV[5])
  if not member then return { 'place' } end
  local members = call('ZRANGEBYLEX', s.order, (ARGV[6] == '1' and '[' or '(') .. member, '+')
  if #members > 0 then
    remove(s, members)
    changed(s, next_moment(s.updated))
  end
  return { 'ok', #members }
end

-- tag, session id, version
function ops.clear()
  local s = open(ARGV[3], ARGV[4])
  if not s then return { 'absent' } end
  if not has_version(s, ARGV[5]) then return { 'version' } end
  local count = call('HLEN', s.places)
  if count > 0 then
    clear(s)
    changed(s, next_moment(s.updated))
  end
  return { 'ok', count }
end

-- tag, session id, version, rows
function ops.replace()
  local s = open(ARGV[3], ARGV[4])
  if not s then return { 'absent' } end
  if not has_version(s, ARGV[5]) then return { 'version' } end
  local rows, refusal = all_rows(s, 6)
  if not rows then return refusal end
  if #rows > 0 or call('EXISTS', s.order) == 1 then
    -- A server without memory rejects the first write of a script, if it may need memory, and none after it.
    if #rows > 0 then call('HSET', s.key, 'u', s.updated) end
    clear(s)
    changed(s, insert(s, rows, next_moment(s.updated)))
  end
  return { 'ok' }
end
